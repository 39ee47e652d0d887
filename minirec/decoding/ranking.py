"""Every user of a split ranked: what metrics and reports are made from."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from kernels.trie import Trie
from minirec.decoding.searcher import BeamSearcher, CompiledRanking, ItemRanker
from minirec.decoding.state import reads

_IN_FLIGHT = 3


@dataclasses.dataclass(frozen=True)
class RankedUsers:
    """What the search returned for `n` users, best first, with `M` beams of `L` tokens.

    Attributes:
        row: the users' places in what was ranked, ascending.
        item: recommended items; -1 where the search found no more.
        item_score: their log-probabilities; -inf where there is no item.
        sid: the beams' tokens.
        score: the beams' log-probabilities.
        dead: beams that hold no item.
        table_score: the items' logits in the model's item table, -inf where it lacks them; None of
            a model without one.
    """

    row: Int[np.ndarray, " n"]
    item: Int[np.ndarray, "n M"]
    item_score: Float[np.ndarray, "n M"]
    sid: Int[np.ndarray, "n M L"]
    score: Float[np.ndarray, "n M"]
    dead: Bool[np.ndarray, "n M"]
    table_score: Float[np.ndarray, "n M"] | None = None


@dataclasses.dataclass(frozen=True)
class RankedItems:
    """What a model's item table returned for `n` users, best first.

    Attributes:
        row: the users' places in what was ranked, ascending.
        item: recommended items; -1 where there is no more.
        item_score: their log-probabilities; -inf where there is no item.
    """

    row: Int[np.ndarray, " n"]
    item: Int[np.ndarray, "n K"]
    item_score: Float[np.ndarray, "n K"]


def rank_users(
    model: nnx.Module,
    batches: Iterable[Mapping[str, np.ndarray]],
    searcher: BeamSearcher,
    trie: Trie,
    *,
    exclude_seen: bool,
    allowed: Bool[np.ndarray, " N"] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> RankedUsers:
    """Returns the recommendations for every valid row of the batches, ordered by `row`.

    Args:
        model: what scores the SIDs.
        batches: prompts as `pipelines.batches.eval_batches` yields them: `item` (or `tokens`, as
            the model `reads`), `lengths`, `history`, `row`, `valid`.
        searcher: the constrained search.
        trie: the catalogue.
        exclude_seen: whether items of a user's own history are left out, exactly.
        allowed: items that may be recommended at all; None means every item.
        on_batch: called after each batch with its number of valid rows.

    Raises:
        ValueError: there are no batches.
    """
    filters = {"exclude_seen": exclude_seen, "allowed": allowed}
    return _ranked(RankedUsers, model, batches, searcher, trie, on_batch=on_batch, **filters)


def rank_users_items(
    model: nnx.Module,
    batches: Iterable[Mapping[str, np.ndarray]],
    ranker: ItemRanker,
    trie: Trie,
    *,
    exclude_seen: bool,
    allowed: Bool[np.ndarray, " N"] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> RankedItems:
    """Returns what the model's item table recommends; see `rank_users`."""
    filters = {"exclude_seen": exclude_seen, "allowed": allowed}
    return _ranked(RankedItems, model, batches, ranker, trie, on_batch=on_batch, **filters)


def _ranked[Ranked: (RankedUsers, RankedItems)](
    kind: type[Ranked],
    model: nnx.Module,
    batches: Iterable[Mapping[str, np.ndarray]],
    ranker: CompiledRanking[Any],
    trie: Trie,
    *,
    exclude_seen: bool,
    allowed: Bool[np.ndarray, " N"] | None,
    on_batch: Callable[[int], None] | None,
) -> Ranked:
    names = [field.name for field in dataclasses.fields(kind)]
    pieces: list[dict[str, np.ndarray]] = []
    # The next batch starts before the last one is waited for: it is made meanwhile, and what one
    # of them leaves idle of a CPU the other takes.
    pending: collections.deque[tuple[Mapping[str, np.ndarray], Callable[[], Any]]]
    pending = collections.deque()

    def finish_oldest() -> None:
        batch, wait = pending.popleft()
        result, valid = wait(), batch["valid"]
        fields = {name: getattr(result, name) for name in names if name != "row"}
        found = {name: np.asarray(x)[valid] for name, x in fields.items() if x is not None}
        pieces.append(found | {"row": batch["row"][valid]})
        if on_batch is not None:
            on_batch(int(valid.sum()))

    for batch in batches:
        excluded = batch["history"] if exclude_seen else None
        wait = ranker.start(
            model, batch[reads(model)], batch["lengths"], trie, excluded=excluded, allowed=allowed
        )
        pending.append((batch, wait))
        if len(pending) == _IN_FLIGHT:
            finish_oldest()
    while pending:
        finish_oldest()
    if not pieces:
        raise ValueError("there is no user to rank: the split has no views")
    order = np.argsort(np.concatenate([piece["row"] for piece in pieces]), kind="stable")
    return kind(
        **{name: np.concatenate([piece[name] for piece in pieces])[order] for name in pieces[0]}
    )
