"""Events that are there more than once: counted, and left out where a config says so.

`keep` keeps all; `drop_exact` drops an event whose user, item, type and time (at the log's full
resolution) are those of one before it; `drop_consecutive` one whose item is that of the event just
before it of the same user; `first` all events of a user with an item but the first. Of equal ones
the first in the user's order stays. It is done once the log is in order and before the k-core, so
that what goes does not count for it, and not again after it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Int64

from pipelines.prepare.previous import blocks, group_offsets, had_before, previous_equal


def exact_duplicates(
    item: Int[np.ndarray, " E"],
    time: Int64[np.ndarray, " E"],
    event: Int[np.ndarray, " E"],
    offsets: Int64[np.ndarray, " U+1"],
) -> Int64[np.ndarray, " n"]:
    """Returns the places of events that equal an earlier one of their user in all, ascending.

    Args:
        item: of each event, users one after the other, each one's events by time.
        time: at full resolution.
        event: its type.
        offsets: where each user's events begin.
    """
    found = [np.zeros(0, np.int64)]
    num_types = int(event.max(initial=0)) + 1
    for first, last in blocks(offsets):
        begin, end = offsets[first], offsets[last]
        rows, run = tied_rows(time[begin:end], offsets[first : last + 1] - begin)
        if len(rows):
            some = rows + begin
            previous = previous_equal(item[some].astype(np.int64) * num_types + event[some])
            # Events of one run stand together: what is not before its first is of it.
            starts = group_offsets(run)
            start = np.repeat(starts[:-1], np.diff(starts))
            found.append(some[previous >= start])
    return np.concatenate(found)


def tied_rows(
    time: Int64[np.ndarray, " n"], offsets: Int64[np.ndarray, " U+1"]
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Returns the events that tie with a neighbour, and which run of equal times each is in.

    Args:
        time: of each event, users one after the other.
        offsets: where each user's events begin.
    """
    starts_run = np.ones(len(time) + 1, bool)
    starts_run[1:-1] = time[1:] != time[:-1]
    starts_run[offsets] = True
    is_alone = starts_run[:-1] & starts_run[1:]
    rows = np.flatnonzero(~is_alone)
    return rows, np.cumsum(starts_run[:-1])[rows]


def kept_events(
    mode: str,
    item: Int[np.ndarray, " E"],
    offsets: Int64[np.ndarray, " U+1"],
    exact: Int64[np.ndarray, " n"],
) -> Bool[np.ndarray, " E"] | None:
    """Returns which events stay; None: all. Of every user some event stays.

    Args:
        mode: as this file's head says.
        item: of each event, users one after the other, each one's events in order.
        offsets: where each user's events begin.
        exact: the places of exact duplicates.
    """
    if mode == "keep":
        return None
    stays = np.ones(len(item), bool)
    if mode == "drop_exact":
        stays[exact] = False
    elif mode == "drop_consecutive":
        stays[1:] = item[1:] != item[:-1]
        stays[offsets[:-1]] = True
    else:
        for begin, _, is_repeat in had_before(item, offsets):
            stays[begin : begin + len(is_repeat)] = ~is_repeat
    return stays
