"""Iterative k-core filtering of interactions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Int64

# Rows that are counted at one time: NumPy turns what it counts into 64 bits first.
_SLICE = 1 << 22


def k_core(
    user: Int[np.ndarray, " E"], item: Int[np.ndarray, " E"], k: int
) -> Bool[np.ndarray, " E"]:
    """Returns which interactions belong to the k-core of the log.

    The k-core is the largest part of the log in which every user and every item has at least `k`
    interactions (repeats count). Users and items with fewer are dropped in turn until none is
    left, since a dropped item may leave a user short and the other way round; the result does not
    depend on the order.

    Args:
        user: dense user of each interaction.
        item: dense item of each interaction.
        k: the least number of interactions; 0 and 1 keep everything.

    Raises:
        ValueError: `k` is negative, or nothing is left.
    """
    if k < 0:
        raise ValueError(f"k_core is {k}; it must be 0 (off) or more")
    kept = np.ones(len(user), bool)
    rounds, left = 0, len(user)
    if k > 1 and left:
        users, items = count(user), count(item)
        kept_user, kept_item = user, item
        rows: np.ndarray | None = None
        while True:
            stays = (users >= k)[kept_user]
            stays &= (items >= k)[kept_item]
            num_stays = int(np.count_nonzero(stays))
            if num_stays == left:
                break
            # What leaves is taken off the counts: it is little in all rounds but the first.
            gone = ~stays
            users -= count(kept_user[gone], len(users))
            items -= count(kept_item[gone], len(items))
            if rows is None:
                kept[gone] = False
                rows = np.flatnonzero(stays).astype(_index_type(len(user)))
            else:
                kept[rows[gone]] = False
                rows = rows[stays]
            kept_user, kept_item, left = kept_user[stays], kept_item[stays], num_stays
            rounds += 1
    if not left:
        most_user, most_item = (int(count(column).max(initial=0)) for column in (user, item))
        raise nothing_left(
            k,
            rows=len(user),
            users=len(np.unique(user)),
            items=len(np.unique(item)),
            rounds=rounds,
            most_user=most_user,
            most_item=most_item,
        )
    return kept


def nothing_left(
    k: int, *, rows: int, users: int, items: int, rounds: int, most_user: int, most_item: int
) -> ValueError:
    """Returns the error of a k-core that is empty.

    Args:
        k: of the k-core.
        rows: interactions there were.
        users: users there were.
        items: items that had an interaction.
        rounds: how often users and items were dropped.
        most_user: interactions of the busiest user.
        most_item: interactions of the most frequent item.
    """
    return ValueError(
        f"k_core={k} leaves nothing of {rows} interactions of {users} users and {items} items "
        f"(after {rounds} rounds; the busiest user has {most_user}, the most frequent item "
        f"{most_item}); choose a smaller k_core"
    )


def count(
    values: Int[np.ndarray, " n"], size: int = 0, where: Bool[np.ndarray, " n"] | None = None
) -> Int64[np.ndarray, " m"]:
    """Returns how often each of 0, 1, … occurs, `np.bincount` in bounded memory.

    Args:
        values: not negative.
        size: the least length of the result.
        where: which values count; None: all.
    """
    size = max(size, int(values.max(initial=-1)) + 1)
    counts = np.zeros(size, np.int64)
    for start in range(0, len(values), _SLICE):
        some = values[start : start + _SLICE]
        if where is not None:
            some = some[where[start : start + _SLICE]]
        found = np.bincount(some)
        counts[: len(found)] += found
    return counts


def _index_type(size: int) -> type[np.signedinteger]:
    return np.int32 if size <= np.iinfo(np.int32).max else np.int64
