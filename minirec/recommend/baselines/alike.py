"""What is like a user's newest items in text."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Int64

from minirec.recommend.baselines.item_transition import DECIMALS
from minirec.recommend.baselines.lists import (
    Histories,
    ages,
    best_places,
    blocks,
    empty_lists,
    unwanted,
)
from minirec.recommend.content import Neighbours
from minirec.recommend.ranked_lists import RankedLists

_NEWEST = 2
_DECAY = 0.5


def likeness(block: Int64[np.ndarray, "b H"], neighbours: Neighbours) -> scipy.sparse.csr_array:
    """Returns `[b, N]`, `sum_{k<2} 0.5**k * cos(h_k, j)` for each `j` but the two newest items.

    Args:
        block: histories, oldest first, -1 where there is none.
        neighbours: which items are like which.
    """
    num_items, age = neighbours.num_items, ages(block)
    user, column = np.nonzero((block >= 0) & (age < _NEWEST))
    newest, weight = block[user, column], _DECAY ** age[user, column].astype(np.float64)
    of, item, cosine = neighbours.of(newest)
    shape = (len(block), num_items)
    like = scipy.sparse.csr_array((cosine * weight[of], (user[of], item)), shape=shape)
    like.data[entries(like, num_items, user, newest)] = 0.0
    return like


def rank_alike(
    histories: Histories,
    neighbours: Neighbours,
    k: int,
    *,
    exclude_seen: bool,
    allowed: Bool[np.ndarray, " N"] | None = None,
    excluded: Histories | None = None,
) -> RankedLists:
    """Returns the `k` items a user that are most like the two newest, with their share of likeness.

    The shares of all items add up to 1. Ties go to the lower id.

    Args:
        histories: item ids a user, oldest first.
        neighbours: which items are like which.
        k: length of the lists.
        exclude_seen: leave out every item of the user's history, and its share with it.
        allowed: items that may be listed at all; None means every item.
        excluded: item ids that each user shall not get beside those, and their shares with them.
    """
    lists = RankedLists(empty_lists(histories, k), np.zeros((len(histories), k)))
    for rows, block in blocks(histories, neighbours.num_items):
        like = likeness(block, neighbours)
        total = np.asarray(like.sum(axis=1)).ravel()
        kept = like.data > 0
        others = None if excluded is None else excluded[rows]
        left_out = unwanted(block, others, neighbours.num_items, exclude_seen=exclude_seen)
        kept[entries(like, neighbours.num_items, *left_out)] = False
        if allowed is not None:
            kept &= allowed[like.indices]
        user = np.repeat(np.arange(len(block)), np.diff(like.indptr))[kept]
        item, score = like.indices[kept], np.round(like.data[kept], DECIMALS)
        best, place = best_places(user, score, item, k)
        user, item, score = user[best], item[best], score[best]
        lists.item[rows][user, place] = item
        lists.probability[rows][user, place] = score / total[user]
    return lists


def entries(
    matrix: scipy.sparse.csr_array,
    num_items: int,
    row: Int64[np.ndarray, " n"],
    column: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " m"]:
    """Returns where in its data a matrix with sorted indices has some entries, of those it has."""
    numbers = np.diff(matrix.indptr)
    keys = np.repeat(np.arange(len(numbers)), numbers) * num_items + matrix.indices
    wanted = np.unique(row * num_items + column)
    found = np.searchsorted(keys, wanted)
    inside = found < len(keys)
    found, wanted = found[inside], wanted[inside]
    return found[keys[found] == wanted]
