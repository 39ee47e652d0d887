"""All items ranked by a model's item table: no search, one product with every item's row."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from kernels.trie import DEAD_NODE, Trie


class ItemRanking(NamedTuple):
    """The best items of each user, best first.

    Attributes:
        item: int32 `[B, K]`; -1 where there is no more.
        item_score: `[B, K]`, their log-probabilities; -inf where there is no item.
    """

    item: Int32[Array, "B K"]
    item_score: Float[Array, "B K"]


class ItemModel(Protocol):
    """What ranks all items; `minirec.models.ItemReader` has it."""

    def read(self, item: Int[Array, "B P"], lengths: Int[Array, " B"]) -> Float[Array, "B D"]:
        """Returns the state after each history."""
        ...

    def item_logits(self, state: Float[Array, "B D"]) -> Float[Array, "B N"]:
        """Returns logits over all items."""
        ...


def rank_items(
    model: ItemModel,
    item: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    trie: Trie,
    *,
    num_items: int,
    excluded: Int[Array, "B E"] | None = None,
    allowed: Bool[Array, "*B items"] | None = None,
) -> ItemRanking:
    """Returns the best items of the catalogue for each user.

    An item's score is its log-probability among all items of the model's table; filters remove
    items and do not change it. Ties go to the lower item. Items that the table lacks are not
    ranked.

    Args:
        model: what reads histories and scores items.
        item: right-padded histories, oldest item first.
        lengths: items of each history.
        trie: the catalogue; items that are not in it are not ranked.
        num_items: how many to return.
        excluded: item ids that a user shall not get, -1 pads.
        allowed: which items may be returned at all, by item id, for the batch or each user.
    """
    state = model.read(item, lengths)
    return rank_states(model, state, trie, num_items=num_items, excluded=excluded, allowed=allowed)


def rank_states(
    model: ItemModel,
    state: Float[Array, "B D"],
    trie: Trie,
    *,
    num_items: int,
    excluded: Int[Array, "B E"] | None = None,
    allowed: Bool[Array, "*B items"] | None = None,
) -> ItemRanking:
    """Returns what `rank_items` does, of histories that have been read already.

    Args:
        model: scores items.
        state: the state after each history, as the model's `read` returned it.
        trie: as for `rank_items`, and the same holds for the others.
        num_items: see `rank_items`.
        excluded: see `rank_items`.
        allowed: see `rank_items`.
    """
    score = jax.nn.log_softmax(model.item_logits(state), axis=-1)
    B, N = score.shape
    leaf = _fitted(trie.item_leaf, N, DEAD_NODE)
    wanted = jnp.broadcast_to(leaf != DEAD_NODE, (B, N))
    if allowed is not None:
        wanted &= _fitted(allowed, N, False)
    if excluded is not None:
        place = jnp.where(excluded < 0, N, excluded)
        wanted = wanted.at[jnp.arange(B, dtype=jnp.int32)[:, None], place].set(False, mode="drop")
    best, found = jax.lax.top_k(jnp.where(wanted, score, -jnp.inf), min(num_items, N))
    missing = ((0, 0), (0, num_items - best.shape[1]))
    best = jnp.pad(best, missing, constant_values=-jnp.inf)
    found = jnp.pad(found.astype(jnp.int32), missing)
    return ItemRanking(jnp.where(best == -jnp.inf, -1, found), best)


def _fitted(values: Array, size: int, fill: int | bool) -> Array:
    """Returns the array with a last axis of `size`, cut off or filled up."""
    missing = size - values.shape[-1]
    if missing <= 0:
        return values[..., :size]
    return jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)], constant_values=fill)
