"""How much of an item's neighbourhood a prefix of its SID keeps together.

Items that are alike, or that are taken one after the other, should begin alike: what a model learns
of one then holds for the others. For each item the 50 nearest are taken, by their text and by the
training transitions, and of these the share that has the item's first code, its first two, and so
on. Long codebooks keep less by chance alone, so that the share of random items stands beside.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse
from jaxtyping import Int, Int64

from minirec.recommend.baselines.lists import best_places
from minirec.sids.collisions import check_codes, prefix_groups

NEAREST = 50
"""Neighbours of an item that are looked at."""


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Of each item the others that are nearest to it.

    Attributes:
        offsets: `[N + 1]`; the neighbours of item `i` are entries `offsets[i]` to `offsets[i + 1]`.
        item: `[E]`, the neighbours; never the item itself.
    """

    offsets: Int64[np.ndarray, " N1"]
    item: Int[np.ndarray, " E"]

    @property
    def num_items(self) -> int:
        """N, size of the catalogue."""
        return len(self.offsets) - 1


def transition_neighbourhood(
    pairs: Int[np.ndarray, "P 2"], num_items: int, number: int = NEAREST
) -> Neighbourhood:
    """Returns, of each item, those that came most often right before or after it.

    Of items that came as often the lower are taken first.

    Args:
        pairs: items that follow one another.
        num_items: N.
        number: neighbours an item at most.
    """
    first, second = pairs[pairs[:, 0] != pairs[:, 1]].T
    ones = np.ones(2 * len(first))
    ends = (np.concatenate([first, second]), np.concatenate([second, first]))
    count = scipy.sparse.coo_array((ones, ends), shape=(num_items, num_items)).tocsr()
    row = np.repeat(np.arange(num_items), np.diff(count.indptr))
    order, _ = best_places(row, count.data, count.indices, number)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row[order], minlength=num_items))])
    return Neighbourhood(offsets.astype(np.int64), count.indices[order])


def kept_by_prefixes(codes: Int[np.ndarray, "N L"], neighbourhood: Neighbourhood) -> list[float]:
    """Returns the share of neighbours that have an item's first code, its first two, ….

    The mean over items that have any of the share of each; zeros where no item has.

    Raises:
        ValueError: `codes` is not a table of codes of as many items.
    """
    codes = check_codes(codes)
    if len(codes) != neighbourhood.num_items:
        raise ValueError(f"codes: {len(codes)} items; there are {neighbourhood.num_items}")
    number = np.diff(neighbourhood.offsets)
    item = np.repeat(np.arange(len(codes)), number)
    weight = 1.0 / np.maximum(number[item], 1) / max(1, np.count_nonzero(number))
    return [
        float(weight[group[item] == group[neighbourhood.item]].sum())
        for group in prefix_groups(codes)
    ]


def kept_by_chance(codes: Int[np.ndarray, "N L"]) -> list[float]:
    """Returns the share of an item's others that have its first code, its first two, …."""
    codes = check_codes(codes)
    sizes = [np.bincount(group).astype(np.float64) for group in prefix_groups(codes)]
    pairs = max(1, len(codes) * (len(codes) - 1))
    return [float(np.sum(size * (size - 1)) / pairs) for size in sizes]
