"""Iterative k-core filtering of interactions.

A k-core may ask for other numbers of users than of items: a pair `(k of users, k of items)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int64

from pipelines.prepare.previous import blocks

# Rows that are counted at one time: NumPy turns what it counts into 64 bits first.
_SLICE = 1 << 22


Ks = tuple[int, int]


def as_ks(value: Any) -> Ks:
    """Returns the least interactions of a user and of an item that a config's `k_core` asks for.

    Args:
        value: a whole number, for both, or two of them.

    Raises:
        ValueError: it is neither, or negative.
    """
    ks = tuple(value) if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
    if not all(isinstance(k, int) and not isinstance(k, bool) and k >= 0 for k in ks):
        raise ValueError(
            f"config.k_core is {value!r}; it must be 0 (off) or a positive integer, or two of "
            "them, for users and for items, such as 5,10"
        )
    return ks[0], ks[1]


def is_on(ks: Ks) -> bool:
    """Returns whether such a k-core may leave anything out."""
    return max(ks) > 1


def shown(ks: Ks) -> str:
    """Returns a k-core's numbers as a person writes them."""
    return str(ks[0]) if ks[0] == ks[1] else f"{ks[0]},{ks[1]}"


def k_core(
    user: Int[np.ndarray, " E"], item: Int[np.ndarray, " E"], k: int | Ks
) -> Bool[np.ndarray, " E"]:
    """Returns which interactions belong to the k-core of the log.

    The k-core is the largest part of the log in which every user and every item has at least `k`
    interactions (repeats count). Users and items with fewer are dropped in turn until none is
    left, since a dropped item may leave a user short and the other way round; the result does not
    depend on the order.

    Args:
        user: dense user of each interaction.
        item: dense item of each interaction.
        k: the least number of interactions, or those of users and of items; 0 and 1 keep
            everything.

    Raises:
        ValueError: `k` is negative, or nothing is left.
    """
    ks = as_ks(k)
    kept = np.ones(len(user), bool)
    rounds, left = 0, len(user)
    if is_on(ks) and left:
        users, items = count(user), count(item)
        kept_user, kept_item = user, item
        rows: np.ndarray | None = None
        while True:
            stays = (users >= ks[0])[kept_user]
            stays &= (items >= ks[1])[kept_item]
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
            ks,
            rows=len(user),
            users=len(np.unique(user)),
            items=len(np.unique(item)),
            rounds=rounds,
            most_user=most_user,
            most_item=most_item,
        )
    return kept


def core_sizes(
    item: Int[np.ndarray, " E"],
    offsets: Int[np.ndarray, " U+1"],
    num_items: int,
    cores: Sequence[Ks],
) -> list[dict[str, int]]:
    """Returns how many users, items and interactions some k-cores of a log leave.

    Memory grows with users and items alone. Each round goes through the log once, to find the
    interactions of the items that it drops, and else sees only what it drops.

    Args:
        item: of all interactions, users one after the other.
        offsets: where each user's begin.
        num_items: N.
        cores: each one's numbers not smaller than those before.
    """
    users, items = np.diff(offsets), count(item, num_items)
    user_left, item_left = np.ones(len(users), bool), np.ones(num_items, bool)
    found = []
    for of_users, of_items in cores:
        while True:
            users_go = user_left & (users < of_users)
            items_go = item_left & (items < of_items)
            if not users_go.any() and not items_go.any():
                break
            user_left &= ~users_go
            item_left &= ~items_go
            # What stands of those that are gone is wrong from here on, and not looked at.
            if items_go.any():
                users = users - _lost_by_users(item, offsets, items_go)
            if users_go.any():
                items = items - _lost_by_items(item, offsets, users_go, num_items)
        found.append(
            {
                "users": int(np.count_nonzero(user_left)),
                "items": int(np.count_nonzero(item_left)),
                "interactions": int(users[user_left].sum()),
            }
        )
    return found


def _lost_by_users(
    item: np.ndarray, offsets: np.ndarray, items_go: np.ndarray
) -> Int64[np.ndarray, " U"]:
    """Returns how many interactions each user has with items that go."""
    lost = np.zeros(len(offsets) - 1, np.int64)
    for start in range(0, len(item), _SLICE):
        rows = np.flatnonzero(items_go[item[start : start + _SLICE]])
        if len(rows):
            user = np.searchsorted(offsets, rows + start, side="right") - 1
            some = np.bincount(user - user[0])
            lost[user[0] : user[0] + len(some)] += some
    return lost


def _lost_by_items(
    item: np.ndarray, offsets: np.ndarray, users_go: np.ndarray, num_items: int
) -> Int64[np.ndarray, " N"]:
    """Returns how many interactions each item has of users that go."""
    lost = np.zeros(num_items, np.int64)
    for first, last in blocks(offsets, _SLICE):
        if users_go[first:last].any():
            goes = np.repeat(users_go[first:last], np.diff(offsets[first : last + 1]))
            some = np.bincount(item[offsets[first] : offsets[last]][goes])
            lost[: len(some)] += some
    return lost


def nothing_left(
    ks: Ks, *, rows: int, users: int, items: int, rounds: int, most_user: int, most_item: int
) -> ValueError:
    """Returns the error of a k-core that is empty.

    Args:
        ks: of the k-core.
        rows: interactions there were.
        users: users there were.
        items: items that had an interaction.
        rounds: how often users and items were dropped.
        most_user: interactions of the busiest user.
        most_item: interactions of the most frequent item.
    """
    return ValueError(
        f"k_core={shown(ks)} leaves nothing of {rows} interactions of {users} users and {items} "
        f"items (after {rounds} rounds; the busiest user has {most_user}, the most frequent item "
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
