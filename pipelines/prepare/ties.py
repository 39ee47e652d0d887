"""Events of one user at one time: how many there are, and in which order they stand.

With `ties = "log"` they stand as the log has them, and the log's order decides which of them is a
user's last, the target of a test. A log whose rows were sorted by item tells a model something that
way. With `ties = "shuffled"` their order is drawn by lot: from a fixed seed, the user's raw id, the
time and the events themselves, so that it is the same however the log's rows lie, and no other
user's events matter. Users are numbered by their raw ids as text then, and not by their first row.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int64, UInt64

from pipelines.batches.shuffle import mixed
from pipelines.prepare.duplicates import tied_rows
from pipelines.prepare.previous import blocks

SHUFFLE_SEED = 20_140_503
"""The seed of the lots: the only one, so that two people get the same records."""

_SLICE = 1 << 20
_BASE = 0x100000001B3  # of FNV-1; odd, so that no byte is lost


def shuffle_ties(
    columns: dict[str, np.ndarray],
    offsets: Int64[np.ndarray, " U+1"],
    keys: UInt64[np.ndarray, " U"],
) -> None:
    """Puts each user's events of equal time into an order drawn by lot, in place.

    Args:
        columns: `item`, `time` and `event` of each event, users one after the other and each one's
            events by time, and any others that go with them.
        offsets: where each user's events begin.
        keys: of each user, see `user_keys`.
    """
    for first, last in blocks(offsets):
        begin = offsets[first]
        time = columns["time"][begin : offsets[last]]
        rows, run = tied_rows(time, offsets[first : last + 1] - begin)
        if not len(rows):
            continue
        user = np.searchsorted(offsets, rows + begin, side="right") - 1
        rows += begin
        # An order of the events' own: equal ones may stand either way.
        order = np.lexsort((columns["event"][rows], columns["item"][rows], run))
        starts = np.flatnonzero(np.diff(run, prepend=run[0] - 1))
        number = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
        with np.errstate(over="ignore"):
            lots = mixed(keys[user] + mixed(columns["time"][rows].astype(np.uint64)))
            lots = mixed(lots + number.astype(np.uint64))
        order = order[np.lexsort((lots, run))]
        for column in columns.values():
            column[rows] = column[rows[order]]


def tied_targets(
    time: Int64[np.ndarray, " E"],
    offsets: Int64[np.ndarray, " U+1"],
    views: Int[np.ndarray, "n 3"],
) -> Bool[np.ndarray, " n"]:
    """Returns which targets have the time of a neighbour: another could as well be the target.

    Args:
        time: at full resolution, users one after the other.
        offsets: where each user's events begin.
        views: (user, start, stop): the history is `start:stop`, the target `stop`. Its neighbours
            are the history's last event and the user's event after it.
    """
    user, start, target = views.T
    at = time[target]
    tied = (target > start) & (time[np.maximum(target - 1, 0)] == at)
    after = np.minimum(target + 1, len(time) - 1)
    tied |= (target + 1 < offsets[user + 1]) & (time[after] == at)
    return tied


def user_keys(users: pl.Series) -> UInt64[np.ndarray, " U"]:
    """Returns 64 bits of each raw id, the same on every machine and in every version.

    Args:
        users: raw ids, String.
    """
    return np.concatenate(
        [np.zeros(0, np.uint64), *(_keys(some) for some in users.to_frame().iter_slices(_SLICE))]
    )


def _keys(frame: pl.DataFrame) -> UInt64[np.ndarray, " n"]:
    texts = frame.to_series()
    length = texts.str.len_bytes().to_numpy().astype(np.int64)
    values = np.frombuffer(texts.str.join("").item().encode(), np.uint8)
    starts = np.cumsum(length) - length
    place = np.arange(len(values)) - np.repeat(starts, length)
    powers = np.full(int(length.max(initial=0)) + 1, _BASE, np.uint64)
    powers[0] = 1
    with np.errstate(over="ignore"):
        np.cumprod(powers, out=powers)
        terms = (values.astype(np.uint64) + np.uint64(1)) * powers[place]
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        total = sums[starts + length] - sums[starts]
        return mixed(total + mixed(np.full(1, SHUFFLE_SEED, np.uint64)))
