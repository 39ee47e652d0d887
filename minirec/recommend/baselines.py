"""The two baselines that stand beside every model: popularity and item transitions.

Both are fitted on training interactions only. Ties in the scores and lists that the scores leave
unfilled go by popularity, and ties in popularity to the lower item id, so that the lists are the
same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float64, Int, Int32, Int64

from minirec.recommend.ranked_lists import RankedLists

Histories = Sequence[Sequence[int] | Int[np.ndarray, " H"]] | Int[np.ndarray, "n H"]
"""Item ids a user, oldest first; in a padded array -1 is padding."""

_MAX_DISTANCE = 3
_MAX_HISTORY = 10
_DECAY = 0.5
_DISTANCE_UNIT = 6  # 1/1, 1/2 and 1/3 are whole multiples of 1/6, so that counts add up exactly
_DECIMALS = 12  # scores that differ by less differ only by the order of a floating-point sum
_BLOCK = 512


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
        lists = _empty_lists(histories, k)
        for rows, block in _blocks(histories, self.num_items):
            seen = _pairs(block) if exclude_seen else _no_pairs()
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
        for rows, block in _blocks(histories, self.num_items):
            seen = _pairs(block) if exclude_seen else _no_pairs()
            fill_by_popularity(ranked.item[rows], self.popularity, seen)
        return ranked

    def rank_followers(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[np.ndarray, " N"] | None = None,
    ) -> RankedLists:
        """Returns `rank`'s lists without what popularity fills them up with: -1 stands there.

        Args:
            histories: item ids a user, oldest first.
            k: length of the lists.
            exclude_seen: leave out every item of the user's history.
            allowed: items that may be listed at all; None means every item. What is left out takes
                its probability with it.

        Raises:
            ValueError: as `recommend`.
        """
        lists = _empty_lists(histories, k)
        probability = np.zeros(lists.shape)
        for rows, block in _blocks(histories, self.num_items):
            user, item, score, mass = self._scores(block)
            kept = score > 0
            if exclude_seen:
                seen = _pairs(block)
                seen_keys = seen[0] * self.num_items + seen[1]
                kept &= ~np.isin(user * self.num_items + item, seen_keys)
            if allowed is not None:
                kept &= allowed[item]
            user, item, score = user[kept], item[kept], score[kept]
            order = np.lexsort((self.popularity.place[item], -score, user))
            user, item, score = user[order], item[order], score[order]
            # Rows are sorted by user, so that a place in a list is the distance to its first row.
            place = np.arange(len(user)) - np.searchsorted(user, user)
            top = place < k
            user, item, score, place = user[top], item[top], score[top], place[top]
            lists[rows][user, place] = item
            probability[rows][user, place] = score / mass[user]
        return RankedLists(lists, probability)

    def _scores(
        self, block: Int[np.ndarray, "b H"]
    ) -> tuple[
        Int64[np.ndarray, " P"],
        Int64[np.ndarray, " P"],
        Float64[np.ndarray, " P"],
        Float64[np.ndarray, " b"],
    ]:
        """Returns (row of the block, item, score) of every item that a history leads to.

        The last value is, for each row of the block, what the scores of all its items add up to.
        """
        valid = block >= 0
        age = np.cumsum(valid[:, ::-1], axis=1)[:, ::-1] - 1
        user, column = np.nonzero(valid & (age < _MAX_HISTORY))
        weight = _DECAY ** age[user, column].astype(np.float64)
        shape = (len(block), self.num_items)
        weights = scipy.sparse.csr_array((weight, (user, block[user, column])), shape=shape)
        scores = (weights @ self.transitions).tocoo()
        leads_on = np.diff(self.transitions.indptr)[block[user, column]] > 0
        mass = np.bincount(user[leads_on], weight[leads_on], minlength=len(block))
        return (
            scores.row.astype(np.int64),
            scores.col.astype(np.int64),
            np.round(scores.data, _DECIMALS),
            mass,
        )


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


def _empty_lists(histories: Histories, k: int) -> Int32[np.ndarray, "n k"]:
    if k < 1:
        raise ValueError(f"k: {k}; a list needs at least one place")
    return np.full((len(histories), k), -1, np.int32)


def _blocks(
    histories: Histories, num_items: int
) -> Iterator[tuple[slice, Int64[np.ndarray, "b H"]]]:
    """Yields (rows, padded histories) of a few users at a time: memory follows one block."""
    for start in range(0, len(histories), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(histories)))
        block = histories[rows]
        if not isinstance(block, np.ndarray):
            width = max((len(history) for history in block), default=0)
            padded = np.full((len(block), width), -1, np.int64)
            for row, history in enumerate(block):
                padded[row, width - len(history) :] = history
            block = padded
        if block.size and int(block.max()) >= num_items:
            row = int(np.argwhere(block >= num_items)[0][0])
            raise ValueError(
                f"histories: item {int(block.max())} of user {start + row}; the catalogue has only "
                f"{num_items} items"
            )
        yield rows, block.astype(np.int64)


def _pairs(block: Int64[np.ndarray, "b H"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (row, item) pairs of a padded block."""
    row, column = np.nonzero(block >= 0)
    return row, block[row, column]


def _no_pairs() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)


def _check_items(items: Int[np.ndarray, " E"], num_items: int, name: str) -> None:
    if num_items < 1:
        raise ValueError(f"num_items: {num_items}; a catalogue needs at least one item")
    if items.size and not 0 <= int(items.min()) <= int(items.max()) < num_items:
        wrong = int(items.min()) if int(items.min()) < 0 else int(items.max())
        raise ValueError(f"{name}: item {wrong} lies outside the catalogue, [0, {num_items})")
