"""The baseline that knows nobody: the items with the most training interactions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from minirec.recommend.baselines.lists import Histories, blocks, empty_lists, no_pairs, pairs
from minirec.recommend.ranked_lists import RankedLists


class Popularity:
    """Recommends the items with the most training interactions, the same to everyone.

    Attributes:
        counts: `[N]`, training interactions of each item.
        order: `[N]`, item ids by count, most first; ties to the lower id.
        place: `[N]`, place of each item in `order`.
    """

    def __init__(self, train_items: Int[np.ndarray, " E"], num_items: int):
        _check_items(train_items, num_items, "train_items")
        self.num_items = num_items
        self.counts: Int64[np.ndarray, " N"] = np.bincount(train_items, minlength=num_items)
        self.order: Int64[np.ndarray, " N"] = np.argsort(-self.counts, kind="stable")
        self.place: Int64[np.ndarray, " N"] = np.empty(num_items, np.int64)
        self.place[self.order] = np.arange(num_items)

    def recommend(
        self, histories: Histories, k: int, *, exclude_seen: bool
    ) -> Int32[np.ndarray, "n k"]:
        """Returns the `k` most popular items a user, best first; -1 where none is left.

        Args:
            histories: item ids a user, oldest first, used for `exclude_seen` alone.
            k: length of the lists.
            exclude_seen: leave out every item of the user's history.

        Raises:
            ValueError: `k` below 1, or an item outside the catalogue.
        """
        lists = empty_lists(histories, k)
        for rows, block in blocks(histories, self.num_items):
            seen = pairs(block) if exclude_seen else no_pairs()
            fill_by_popularity(lists[rows], self, seen)
        return lists

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool) -> RankedLists:
        """Returns `recommend`'s lists with each item's share of the training interactions.

        What `exclude_seen` leaves out takes its share with it: the others' does not grow. Without
        training interactions all is 0.

        Raises:
            ValueError: as `recommend`.
        """
        item = self.recommend(histories, k, exclude_seen=exclude_seen)
        share = self.counts / max(1, int(self.counts.sum()))
        return RankedLists(item, np.where(item >= 0, share[item], 0.0))


def fill_by_popularity(
    lists: Int32[np.ndarray, "b k"],
    popularity: Popularity,
    excluded: tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]],
) -> None:
    """Fills the open end of each list, in place, with the most popular items not yet in it.

    Args:
        lists: item ids from the left, -1 from where a list is open.
        popularity: the order to fill by.
        excluded: (row, item) pairs that must not appear.
    """
    num_rows, k = lists.shape
    row, column = np.nonzero(lists >= 0)
    length = np.bincount(row, minlength=num_rows)
    taken_row = np.concatenate([row, excluded[0]])
    taken_item = np.concatenate([lists[row, column].astype(np.int64), excluded[1]])
    # The first `k` items that are free lie among the first k + (most taken by one user).
    most_taken = int(np.bincount(taken_row, minlength=num_rows).max(initial=0))
    prefix = min(popularity.num_items, k + most_taken)
    free: Bool[np.ndarray, "b P"] = np.ones((num_rows, prefix), bool)
    place = popularity.place[taken_item]
    inside = place < prefix
    free[taken_row[inside], place[inside]] = False
    target = np.cumsum(free, axis=1) - 1 + length[:, None]
    row, place = np.nonzero(free & (target < k))
    lists[row, target[row, place]] = popularity.order[place]


def _check_items(items: Int[np.ndarray, " E"], num_items: int, name: str) -> None:
    if num_items < 1:
        raise ValueError(f"num_items: {num_items}; a catalogue needs at least one item")
    if items.size and not 0 <= int(items.min()) <= int(items.max()) < num_items:
        wrong = int(items.min()) if int(items.min()) < 0 else int(items.max())
        raise ValueError(f"{name}: item {wrong} lies outside the catalogue, [0, {num_items})")
