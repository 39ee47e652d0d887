"""The baseline of what followed in training and of what is written about the items.

A user's score for `j` is the transition count's plus `weight * sum_{k<2} 0.5**k * cos(h_k, j)` over
the two newest history items; these two have no such term themselves. Ties and an unfilled list go
by popularity.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Self

import numpy as np
import scipy.sparse
from jaxtyping import Float64, Int, Int32, Int64

from minirec.recommend.baselines.alike import entries, likeness
from minirec.recommend.baselines.item_transition import DECIMALS, ItemTransition
from minirec.recommend.baselines.known import Known
from minirec.recommend.baselines.lists import Histories, blocks, empty_lists, no_pairs, pairs
from minirec.recommend.baselines.popularity import fill_by_popularity
from minirec.recommend.content import Neighbours
from minirec.recommend.sources import TRANSITION_CONTENT

WEIGHTS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
"""What validation users choose from."""


@dataclasses.dataclass(frozen=True, eq=False)
class TransitionContent:
    """Recommends what followed the user's newest items, and what is like the newest two.

    Attributes:
        transition: the count.
        neighbours: which items are like which.
        weight: of the likeness beside the count.
    """

    transition: ItemTransition
    neighbours: Neighbours
    weight: float

    @classmethod
    def fit(cls, known: Known) -> Self:
        """Returns the baseline with the weight that validation users choose from `WEIGHTS`."""
        first = cls(known.transition, known.neighbours, WEIGHTS[0])
        weight = known.choose(TRANSITION_CONTENT, first, WEIGHTS)
        return dataclasses.replace(first, weight=weight)

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
        lists = empty_lists(histories, k)
        place = self.transition.popularity.place
        for rows, block in blocks(histories, self.transition.num_items):
            found = self._found(block, exclude_seen=exclude_seen)
            scores = found.score(self.weight)
            ends = np.searchsorted(found.user, np.arange(len(block) + 1))
            for mine, (start, stop) in zip(lists[rows], itertools.pairwise(ends), strict=True):
                score, item = scores[start:stop], found.item[start:stop]
                least = np.partition(score, len(score) - k)[-k] if len(score) > k else 0.0
                listed = (score > 0) & (score >= least)  # More than k where scores tie there.
                score, item = score[listed], item[listed]
                best = np.lexsort((place[item], -score))[:k]
                mine[: len(best)] = item[best]
            fill_by_popularity(lists[rows], self.transition.popularity, found.excluded)
        return lists

    def ranks(
        self,
        histories: Histories,
        target: Int[np.ndarray, " n"],
        weights: Sequence[float],
        *,
        exclude_seen: bool,
    ) -> Int32[np.ndarray, "W n"]:
        """Returns the place of each target in the whole list, from 0, under each of some weights.

        Args:
            histories: item ids a user, oldest first.
            target: the item that came next.
            weights: to be tried in place of the own one.
            exclude_seen: leave out every item of the user's history; a target among them has the
                place N, behind all.

        Raises:
            ValueError: an item outside the catalogue.
        """
        place, num_items = self.transition.popularity.place, self.transition.num_items
        ranks = np.empty((len(weights), len(histories)), np.int32)
        for rows, block in blocks(histories, num_items):
            found = self._found(block, exclude_seen=exclude_seen)
            goal, user = target[rows], found.user
            own_place = place[goal]
            before, at = place[found.item] < own_place[user], found.item == goal[user]
            keys = np.unique(found.excluded[0] * num_items + found.excluded[1])
            excluded_user, excluded_item = keys // num_items, keys % num_items
            hidden = np.zeros(len(block), bool)
            hidden[excluded_user[excluded_item == goal[excluded_user]]] = True
            ahead = place[excluded_item] < own_place[excluded_user]
            unlisted = own_place - _count(excluded_user[ahead], block)
            for number, weight in enumerate(weights):
                score = found.score(weight)
                own = np.zeros(len(block))
                own[user[at]] = score[at]
                scored, tied = score > 0, score == own[user]
                rank = _count(user[scored & ((score > own[user]) | (tied & before))], block)
                # A target without a score stands behind all that have one, by popularity.
                behind = unlisted - _count(user[scored & before], block)
                ranks[number, rows] = np.where(
                    hidden, num_items, rank + np.where(own > 0, 0, behind)
                )
        return ranks

    def _found(self, block: Int64[np.ndarray, "b H"], *, exclude_seen: bool) -> _Found:
        """Returns the items that either term speaks for, but for those that are left out."""
        num_items, like = self.transition.num_items, likeness(block, self.neighbours)
        # A sum of complex numbers holds the items of both terms and keeps the two apart.
        both = scipy.sparse.csr_array(self.transition.scores(block) + 1j * like)
        both.sort_indices()
        excluded = pairs(block) if exclude_seen else no_pairs()
        kept = np.ones(both.nnz, bool)
        kept[entries(both, num_items, *excluded)] = False
        user = np.repeat(np.arange(len(block)), np.diff(both.indptr))[kept]
        value = both.data[kept]
        return _Found(user, both.indices[kept], value.real, value.imag, excluded)


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    """Items that may be listed, user by user; those that are `excluded`, (row, item), are not."""

    user: Int64[np.ndarray, " P"]
    item: Int32[np.ndarray, " P"]
    count: Float64[np.ndarray, " P"]
    like: Float64[np.ndarray, " P"]
    excluded: tuple[Int64[np.ndarray, " X"], Int64[np.ndarray, " X"]]

    def score(self, weight: float) -> Float64[np.ndarray, " P"]:
        return np.round(self.count + weight * self.like, DECIMALS)


def _count(user: Int64[np.ndarray, " n"], block: Int64[np.ndarray, "b H"]) -> np.ndarray:
    return np.bincount(user, minlength=len(block))
