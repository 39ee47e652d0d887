"""What stood before: the place of the last equal value, and whether a user had an item already.

A log is gone through in blocks of whole users, so that what is sorted at a time is small, whatever
the log's length.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int, Int64

# Events of a block: what is sorted at a time lies in a processor's cache.
_BLOCK = 1 << 20


def blocks(offsets: Int[np.ndarray, " G+1"], size: int = _BLOCK) -> Iterator[tuple[int, int]]:
    """Yields (first, last) of whole groups, one after the other, of about `size` events each.

    Args:
        offsets: the events of group `g` are `offsets[g]:offsets[g + 1]`.
        size: events of a block; one that has a larger group is as large as that.
    """
    first, num_groups = 0, len(offsets) - 1
    while first < num_groups:
        last = int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1
        last = min(max(last, first + 1), num_groups)
        yield first, last
        first = last


def group_offsets(*columns: np.ndarray) -> Int64[np.ndarray, " G+1"]:
    """Returns where each run of rows begins that are equal in all columns, and the end."""
    size = len(columns[0])
    differs = np.zeros(max(size - 1, 0), bool)
    for column in columns:
        differs |= column[1:] != column[:-1]
    return np.concatenate([[0], np.flatnonzero(differs) + 1, [size]] if size else [[0]]).astype(
        np.int64
    )


def previous_equal(values: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Returns the place of the last equal value before each, -1 where there is none.

    Args:
        values: not negative.
    """
    size = len(values)
    bits = max(1, size - 1).bit_length()
    if int(values.max(initial=0)).bit_length() + bits > 63:
        values = np.unique(values, return_inverse=True)[1]
    # Value and place in one number: a plain sort is faster than a stable sort of places.
    key = values.astype(np.int64)
    key <<= bits
    key |= np.arange(size, dtype=np.int64)
    key.sort()
    place = key & ((1 << bits) - 1)
    key >>= bits
    again = np.flatnonzero(key[1:] == key[:-1])
    found = np.full(size, -1, np.int64)
    found[place[again + 1]] = place[again]
    return found


def had_before(
    item: Int[np.ndarray, " E"], offsets: Int[np.ndarray, " U+1"]
) -> Iterator[tuple[int, Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]]:
    """Yields block after block which events are with an item that their user had before.

    Args:
        item: of all events, users one after the other.
        offsets: where each user's begin.

    Yields:
        place of the block's first event; place (in the whole log) of the last event before with the
        same item, of any user; whether that is the same user's.
    """
    for first, last in blocks(offsets):
        begin = int(offsets[first])
        previous = previous_equal(np.asarray(item[begin : offsets[last]]))
        start = np.repeat(offsets[first:last], np.diff(offsets[first : last + 1])) - begin
        # Events of one user stand together: what is not before their first is theirs.
        yield begin, previous + begin, previous >= start


def targets_in_history(
    item: Int[np.ndarray, " E"],
    offsets: Int[np.ndarray, " U+1"],
    views: dict[str, Int[np.ndarray, "n 3"]],
) -> tuple[int, dict[str, int]]:
    """Counts repeats: events with an item that the user had before, and targets among them.

    Args:
        item: of all events, users one after the other.
        offsets: where each user's begin.
        views: of each split, (user, start, stop): the history is `start:stop`, the target `stop`.

    Returns:
        how many events there are with an item that their user had before, and for each split how
        many views have a target that is an item of their history.
    """
    ordered = {}
    for name, of_split in views.items():
        by_target = of_split[:, 2]
        if (by_target[1:] < by_target[:-1]).any():
            of_split = of_split[np.argsort(by_target, kind="stable")]
        ordered[name] = of_split
    repeats, hidden = 0, dict.fromkeys(views, 0)
    for begin, previous, is_repeat in had_before(item, offsets):
        repeats += int(np.count_nonzero(is_repeat))
        for name, of_split in ordered.items():
            low, high = np.searchsorted(of_split[:, 2], [begin, begin + len(previous)])
            start, target = of_split[low:high, 1], of_split[low:high, 2] - begin
            # A given split may begin a history later than its user's first event.
            found = is_repeat[target] & (previous[target] >= start)
            hidden[name] += int(np.count_nonzero(found))
    return repeats, hidden
