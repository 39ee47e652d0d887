"""Targets that stand for others: an item that is like the newest of a history, by its text.

A log shows one next item where many would have done, and an item that few have taken is hardly ever
one. Where a share of the targets is replaced by items whose text is near that of the history's end,
these are learnt, too: smoothing of labels, over items that the text says are likely and not over
all (Szegedy et al., 2016, smooth evenly).
"""

from __future__ import annotations

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float16, Int, Int32, Int64, Key

KEPT = 50
BEFORE = (1.0, 0.5)  # What a cosine counts for, by how far back in the history an item stands.
_ENOUGH = 3.0  # Summed cosines from which on the share is the whole one.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TextNeighbours:
    """Of every item those that are most like it; a pytree.

    Attributes:
        item: int32 `[N, K]`, best first; any number where there is none.
        cosine: float16 `[N, K]`, how near, above 0; 0 where there is none.
    """

    item: Int32[Array | np.ndarray, "N K"]
    cosine: Float16[Array | np.ndarray, "N K"]

    @classmethod
    def of(
        cls,
        offsets: Int64[np.ndarray, " N1"],
        item: Int[np.ndarray, " E"],
        cosine: Float[np.ndarray, " E"],
        kept: int = KEPT,
    ) -> Self:
        """Returns the nearest of lists of neighbours; of those alike the ones that stand first.

        Args:
            offsets: `[N + 1]`; the neighbours of item `i` are entries `offsets[i]` to
                `offsets[i + 1]`, as in `minirec.recommend.content.Neighbours`.
            item: `[E]`, neighbours.
            cosine: `[E]`, how near each is, above 0.
            kept: neighbours an item at most, `K`.
        """
        number = np.diff(offsets)
        row = np.repeat(np.arange(len(number)), number)
        order = np.lexsort((-np.asarray(cosine), row))
        place = np.arange(len(row)) - np.repeat(offsets[:-1] - offsets[0], number)
        chosen = place < kept
        items = np.zeros((len(number), kept), np.int32)
        cosines = np.zeros((len(number), kept), np.float16)
        items[row[chosen], place[chosen]] = np.asarray(item)[order][chosen]
        cosines[row[chosen], place[chosen]] = np.asarray(cosine)[order][chosen]
        return cls(items, cosines)

    def replaced(
        self,
        key: Key[Array, ""],
        target: Int[Array, "*batch"],
        before: Int[Array, "*batch n"],
        share: float,
    ) -> Int[Array, "*batch"]:
        """Returns targets of which a share is replaced by neighbours of the items before them.

        Neighbours are drawn in proportion to their cosine times `BEFORE`; where these sum up to
        less than 3, so that little is known, the share is the less in proportion.

        Args:
            key: draws.
            target: items.
            before: the newest items before each target, newest first, as many as `BEFORE` has; a
                negative number where there is none.
            share: chance that a target is replaced, in [0, 1].
        """
        near = jnp.take(jnp.asarray(self.item), before, axis=0, mode="clip")
        weight = jnp.take(jnp.asarray(self.cosine), before, axis=0, mode="clip")
        weight = weight.astype(jnp.float32) * jnp.asarray(BEFORE, jnp.float32)[:, None]
        weight = jnp.where((before >= 0)[..., None], weight, 0.0)
        near = near.reshape(*target.shape, -1)
        edges = jnp.cumsum(weight.reshape(*target.shape, -1), axis=-1)
        total = edges[..., -1]
        whether_key, which_key = jax.random.split(key)
        chance = share * jnp.minimum(1.0, total / _ENOUGH)
        replace = jax.random.uniform(whether_key, target.shape, jnp.float32) < chance
        # A spot is below 1 by 2^-23 at least, so that its product with the total is below that,
        # and the first edge above it belongs to a neighbour whose weight is not 0.
        spot = jax.random.uniform(which_key, target.shape, jnp.float32) * total
        place = jnp.sum(edges <= spot[..., None], axis=-1, keepdims=True)
        drawn = jnp.take_along_axis(near, place, axis=-1, mode="clip")[..., 0]
        return jnp.where(replace, drawn.astype(target.dtype), target)


def newest_before(item: Int[Array, "B P"], segment: Int[Array, "B P"]) -> Int[Array, "B P n"]:
    """Returns the items that stand before each in its own segment, newest first; -1 for none.

    Args:
        item: packed or padded rows.
        segment: example of each item, from 1; 0 is padding.
    """
    found = []
    for back in range(1, len(BEFORE) + 1):
        there = jnp.pad(segment, ((0, 0), (back, 0)))[:, : segment.shape[1]]
        one = jnp.pad(item, ((0, 0), (back, 0)))[:, : item.shape[1]]
        found.append(jnp.where((there == segment) & (segment > 0), one, -1))
    return jnp.stack(found, axis=-1)
