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
    """A stable argsort: time and row in one number where they fit, as sorting is faster then."""
    least = int(time.min(initial=0))
    bits = max(1, len(time) - 1).bit_length()
    if (int(time.max(initial=0)) - least).bit_length() + bits > 63:
        return np.argsort(time, kind="stable").astype(np.int32)
    key = time - least
    key <<= bits
    key |= np.arange(len(time), dtype=np.int64)
    key.sort()
    key &= (1 << bits) - 1
    return key.astype(np.int32)
