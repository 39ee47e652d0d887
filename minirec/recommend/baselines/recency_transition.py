"""The baseline of what a user has looked at and of what followed such items in training."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from jaxtyping import Int32, Int64

from minirec.recommend.baselines.item_transition import DECIMALS, ItemTransition
from minirec.recommend.baselines.lists import (
    Histories,
    best_places,
    blocks,
    empty_lists,
    no_pairs,
    pairs,
)
from minirec.recommend.baselines.popularity import fill_by_popularity
from minirec.recommend.baselines.recency import newest

# Fixed, the same for every log: a bar that nobody fits.
DECAY = 0.6
WEIGHT = 0.2


class RecencyTransition:
    """Recommends by `0.6**r` for the r-th distinct item from the newest, and 0.2 of the count.

    Ties and an unfilled list go by popularity.

    Attributes:
        transition: the count.
    """

    def __init__(self, transition: ItemTransition):
        self.transition = transition

    def recommend(
        self, histories: Histories, k: int, *, exclude_seen: bool
    ) -> Int32[np.ndarray, "n k"]:
        """Returns the `k` best items a user, best first; -1 where none is left.

        Args:
            histories: item ids a user, oldest first.
            k: length of the lists.
            exclude_seen: leave out every item of the user's history.

        Raises:
            ValueError: `k` below 1, or an item outside the catalogue.
        """
        lists, popularity = empty_lists(histories, k), self.transition.popularity
        num_items = self.transition.num_items
        for rows, block in blocks(histories, num_items):
            scores = self.scores(block).tocoo()
            user, item = scores.row.astype(np.int64), scores.col.astype(np.int64)
            score = np.round(scores.data, DECIMALS)
            kept, excluded = score > 0, no_pairs()
            if exclude_seen:
                excluded = pairs(block)
                seen = excluded[0] * num_items + excluded[1]
                kept &= ~np.isin(user * num_items + item, seen)
            user, item, score = user[kept], item[kept], score[kept]
            best, place = best_places(user, score, popularity.place[item], k)
            lists[rows][user[best], place] = item[best]
            fill_by_popularity(lists[rows], popularity, excluded)
        return lists

    def scores(self, block: Int64[np.ndarray, "b H"]) -> scipy.sparse.csr_array:
        """Returns `[b, N]`, the score of every item that has one for a padded history."""
        user, item, place = newest(block)
        shape = (len(block), self.transition.num_items)
        recent = scipy.sparse.csr_array((DECAY ** place.astype(np.float64), (user, item)), shape)
        return recent + WEIGHT * self.transition.scores(block)
