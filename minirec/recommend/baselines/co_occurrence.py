"""The baseline for data without an order: items that the same users have."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from jaxtyping import Int, Int32

from minirec.recommend.baselines.item_transition import DECIMALS
from minirec.recommend.baselines.lists import Histories, blocks, empty_lists, pairs
from minirec.recommend.baselines.popularity import Popularity

MOST_ITEMS = 2_000
_SEED = 0  # of the items that are drawn of a longer list: the same whatever a run's seed


class CoOccurrence:
    """Recommends what the users have who share items with a user.

    Items `a` and `b` are as near as the number of users who have both over `√(n_a n_b)`, `n` the
    users who have each. A user's score for `b` is the sum over the items of the history but `b`
    itself. A list of more than 2,000 items counts with as many drawn ones. Ties go by popularity.

    Attributes:
        popularity: decides ties.
        lists: `[S, N]` sparse, 1 where a list has an item, each column over the root of its sum.
    """

    def __init__(
        self,
        item: Int[np.ndarray, " E"],
        offsets: Int[np.ndarray, " S1"],
        num_items: int,
        popularity: Popularity,
    ):
        """Counts nothing: the counts of pairs are never made, only what they are products of.

        Args:
            item: the items of all training lists, one list after another.
            offsets: list `s` is `item[offsets[s]:offsets[s + 1]]`.
            num_items: N, size of the catalogue.
            popularity: of the same lists.
        """
        rng = np.random.default_rng(_SEED)
        rows, columns = [], []
        for number in range(len(offsets) - 1):
            held = np.unique(item[offsets[number] : offsets[number + 1]])
            if len(held) > MOST_ITEMS:
                held = np.sort(rng.permutation(held)[:MOST_ITEMS])
            rows.append(np.full(len(held), number))
            columns.append(held)
        row = np.concatenate([*rows, np.zeros(0, np.int64)])
        column = np.concatenate([*columns, np.zeros(0, np.int64)])
        users = np.bincount(column, minlength=num_items)
        shape = (len(offsets) - 1, num_items)
        weight = 1 / np.sqrt(users[column])
        self.lists = scipy.sparse.csr_array((weight, (row, column)), shape=shape)
        self.popularity = popularity
        self._has_users = users > 0
        self._across = scipy.sparse.csr_array(self.lists.T)

    def recommend(
        self, histories: Histories, k: int, *, exclude_seen: bool
    ) -> Int32[np.ndarray, "n k"]:
        """Returns the `k` best items a user, best first; -1 where none is left.

        Args:
            histories: item ids a user, in any order.
            k: length of the lists.
            exclude_seen: leave out every item of the user's history.

        Raises:
            ValueError: `k` below 1, or an item outside the catalogue.
        """
        found = empty_lists(histories, k)
        num_items = self.popularity.num_items
        for rows, block in blocks(histories, num_items):
            row, item = pairs(block)
            mine = np.zeros((len(block), num_items), bool)
            mine[row, item] = True
            # An item is as near to itself as can be, and that says nothing.
            itself = mine & self._has_users
            known = scipy.sparse.csr_array(mine, dtype=np.float64)
            scores = ((known @ self._across) @ self.lists).toarray() - itself
            scores = np.round(scores, DECIMALS)
            if exclude_seen:
                scores[mine] = -np.inf
            for place, score in enumerate(scores):
                best = np.lexsort((self.popularity.place, -score))[:k]
                best = best[np.isfinite(score[best])]
                found[rows][place, : len(best)] = best
        return found
