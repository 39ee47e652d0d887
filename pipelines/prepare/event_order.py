"""The order of a prepared log: users one after the other, each one's events oldest first."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, Int64
from scipy import sparse


def event_order(
    user: Int32[np.ndarray, " E"], time: Int64[np.ndarray, " E"], num_users: int
) -> tuple[Int32[np.ndarray, " E"], Int64[np.ndarray, " U+1"]]:
    """Returns the rows of a log by user and time, and where each user's begin.

    Rows of equal user and time stay in the order of the log. A log that has each user's events in
    order of time already, as most have, needs only a counting sort by user.

    Args:
        user: dense user of each row.
        time: any whole numbers.
        num_users: U.
    """
    order, offsets = _by_user(user, num_users)
    later = time[order]
    falls = later[1:] < later[:-1]
    # From one user to the next the time may fall.
    starts = offsets[1:-1]
    falls[starts[(starts > 0) & (starts < len(user))] - 1] = False
    if falls.any():
        del order, later, falls
        by_time = _by_time(time)
        within, offsets = _by_user(user[by_time], num_users)
        order = by_time[within]
    return order, offsets


def _by_user(
    user: Int32[np.ndarray, " E"], num_users: int
) -> tuple[Int32[np.ndarray, " E"], Int64[np.ndarray, " U+1"]]:
    """A counting sort: SciPy turns a matrix with one entry a column from columns to rows."""
    shape = (num_users, len(user))
    columns = sparse.csc_array(
        (np.ones(len(user), np.int8), user, np.arange(len(user) + 1, dtype=np.int32)), shape=shape
    )
    rows = columns.tocsr()
    return rows.indices.astype(np.int32, copy=False), rows.indptr.astype(np.int64)


def _by_time(time: Int64[np.ndarray, " E"]) -> Int32[np.ndarray, " E"]:
    """A stable argsort: sorting time and row as one number is some ten times as fast as NumPy's."""
    bits = max(1, len(time) - 1).bit_length()
    # Of 64 bits without a sign, which hold the distance of any two times.
    key = time.view(np.uint64) - np.uint64(int(time.min()) % 2**64)
    if int(key.max()).bit_length() + bits > 64:
        key = _coarsened(key)
    low = np.uint64(64 - bits)
    if not int(key.max()) >> int(low):
        return _sorted_places(key, bits)
    # Once by the part that fits beside the row's number, then by the one that decides first.
    order = _sorted_places(key & np.uint64(2 ** int(low) - 1), bits)
    key >>= low
    return order[_sorted_places(key[order], bits)]


def _coarsened(key: np.ndarray) -> np.ndarray:
    """Counts in seconds, milliseconds or microseconds where the nanoseconds are whole ones."""
    for unit in (10**9, 10**6, 10**3):
        # A few tell of most logs that they are not.
        if not (key[:1000] % unit).any() and not (key % unit).any():
            return key // unit
    return key


def _sorted_places(key: np.ndarray, bits: int) -> Int32[np.ndarray, " E"]:
    """A stable argsort of numbers of at most `64 - bits` bits; they are used up."""
    key <<= np.uint64(bits)
    key |= np.arange(len(key), dtype=np.uint64)
    key.sort()
    key &= np.uint64(2**bits - 1)
    return key.astype(np.int32)
