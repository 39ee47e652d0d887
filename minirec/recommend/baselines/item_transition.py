"""The baseline of what followed the user's newest items in training.

Ties in the scores and lists that the scores leave unfilled go by popularity.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Int, Int32, Int64

from minirec.recommend.baselines.lists import (
    Histories,
    ages,
    best_places,
    blocks,
    empty_lists,
    no_pairs,
    pairs,
    unwanted,
)
from minirec.recommend.baselines.popularity import Popularity, fill_by_popularity
from minirec.recommend.ranked_lists import RankedLists

_MAX_DISTANCE = 3
_MAX_HISTORY = 10
_DECAY = 0.5
_DISTANCE_UNIT = 6  # 1/1, 1/2 and 1/3 are whole multiples of 1/6, so that counts add up exactly
DECIMALS = 12  # scores that differ by less differ only by the order of a floating-point sum


class ItemTransition:
    """Recommends what followed the user's newest items in the training sequences.

    `T[a][b] += 1/d` for every pair of a training sequence in which `b` comes `d` places after `a`,
    `d` in {1, 2, 3}. A user's score for `j` sums `0.5**k * T[h_k][j] / sum_b T[h_k][b]` over the
    newest ten history items `h_0` (newest), `h_1`, …

    Attributes:
        popularity: the baseline that decides ties and fills lists up.
        transitions: `[N, N]` sparse, each row divided by its sum.
    """

    def __init__(
        self, item: Int[np.ndarray, " E"], offsets: Int[np.ndarray, " S1"], num_items: int
    ):
        """Counts the transitions.

        Args:
            item: the items of all training sequences, one after another, oldest first.
            offsets: sequence `s` is `item[offsets[s]:offsets[s + 1]]`.
            num_items: N, size of the catalogue.

        Raises:
            ValueError: an item outside the catalogue, or offsets that do not cut up `item`.
        """
        item, offsets = np.asarray(item), np.asarray(offsets)
        self.popularity = Popularity(item, num_items)
        self.num_items = num_items
        self.transitions = _transitions(item, offsets, num_items)

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
        return self.rank(histories, k, exclude_seen=exclude_seen).item

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool) -> RankedLists:
        """Returns `recommend`'s lists with the probability of each item.

        A row of `T` over its sum is a distribution over next items, and the score is a sum of such
        rows. Divided by the sum of `0.5**k` over those of the newest ten items that have a
        transition, it is their mixture: over the whole catalogue it adds up to 1. Items that
        popularity fills a list up with have 0, and so has a user without any transition. What
        `exclude_seen` leaves out takes its probability with it: the others' does not grow.

        Raises:
            ValueError: as `recommend`.
        """
        ranked = self.rank_followers(histories, k, exclude_seen=exclude_seen)
        for rows, block in blocks(histories, self.num_items):
            seen = pairs(block) if exclude_seen else no_pairs()
            fill_by_popularity(ranked.item[rows], self.popularity, seen)
        return ranked

    def rank_followers(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[np.ndarray, " N"] | None = None,
        excluded: Histories | None = None,
    ) -> RankedLists:
        """Returns `rank`'s lists without what popularity fills them up with: -1 stands there.

        Args:
            histories: item ids a user, oldest first.
            k: length of the lists.
            exclude_seen: leave out every item of the user's history.
            allowed: items that may be listed at all; None means every item. What is left out takes
                its probability with it.
            excluded: item ids that each user shall not get beside those.

        Raises:
            ValueError: as `recommend`.
        """
        lists = empty_lists(histories, k)
        probability = np.zeros(lists.shape)
        for rows, block in blocks(histories, self.num_items):
            scores = self.scores(block).tocoo()
            user, item = scores.row.astype(np.int64), scores.col.astype(np.int64)
            score = np.round(scores.data, DECIMALS)
            # What the scores of all of a user's items add up to.
            leads_on = np.diff(self.transitions.indptr) > 0
            mass = self._weights(block) @ leads_on.astype(np.float64)
            kept = score > 0
            others = None if excluded is None else excluded[rows]
            row, left_out = unwanted(block, others, self.num_items, exclude_seen=exclude_seen)
            if len(row):
                keys = row * self.num_items + left_out
                kept &= ~np.isin(user * self.num_items + item, keys)
            if allowed is not None:
                kept &= allowed[item]
            user, item, score = user[kept], item[kept], score[kept]
            best, place = best_places(user, score, self.popularity.place[item], k)
            user, item, score = user[best], item[best], score[best]
            lists[rows][user, place] = item
            probability[rows][user, place] = score / mass[user]
        return RankedLists(lists, probability)

    def scores(self, block: Int64[np.ndarray, "b H"]) -> scipy.sparse.csr_array:
        """Returns `[b, N]`, the score of every item that a padded history leads to."""
        return self._weights(block) @ self.transitions

    def _weights(self, block: Int64[np.ndarray, "b H"]) -> scipy.sparse.csr_array:
        """Returns `[b, N]`, how much each item of a history counts."""
        age = ages(block)
        user, column = np.nonzero((block >= 0) & (age < _MAX_HISTORY))
        weight = _DECAY ** age[user, column].astype(np.float64)
        shape = (len(block), self.num_items)
        return scipy.sparse.csr_array((weight, (user, block[user, column])), shape=shape)


def _transitions(
    item: Int[np.ndarray, " E"], offsets: Int[np.ndarray, " S1"], num_items: int
) -> scipy.sparse.csr_array:
    if (
        offsets.ndim != 1
        or len(offsets) == 0
        or offsets[0] != 0
        or offsets[-1] != len(item)
        or (np.diff(offsets) < 0).any()
    ):
        raise ValueError(
            f"offsets: must rise from 0 to the number of items, {len(item)}, got "
            f"{offsets[:3].tolist()} … {offsets[-3:].tolist()}"
        )
    sequence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    before, after, weight = [], [], []
    for distance in range(1, _MAX_DISTANCE + 1):
        same = sequence[distance:] == sequence[:-distance]
        before.append(item[:-distance][same])
        after.append(item[distance:][same])
        weight.append(np.full(int(same.sum()), _DISTANCE_UNIT // distance, np.float64))
    counts = scipy.sparse.csr_array(
        (np.concatenate(weight), (np.concatenate(before), np.concatenate(after))),
        shape=(num_items, num_items),
    )
    counts.sum_duplicates()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    counts.data /= np.repeat(totals, np.diff(counts.indptr))
    return counts
