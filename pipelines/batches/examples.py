"""Training examples: which events each one shows, and on which of them the loss lies.

An example is a run of consecutive events of one user: items `start … start + size`, the last
`num_targets` of which are to be predicted. Only numbers are made here, no copies of the events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Int, Shaped

EVENT_FIELDS = {"item": np.int32, "event": np.int32, "time": np.int64}
"""What a batch says of each event, by the log's columns."""

NOTHING = -1
"""What stands in these fields where there is no event."""


class PreparedLog(Protocol):
    """What the loader reads of a prepared data set; `pipelines.prepared.Prepared` is one."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Event columns: `item` and `event` int32, `time` int64, each [E]."""
        ...

    @property
    def event_weights(self) -> Mapping[str, float]:
        """What each event type counts as a target, in the order of their numbers; 0 or more."""
        ...

    @property
    def offsets(self) -> np.ndarray:
        """int64 [U + 1], where each user's events begin."""
        ...

    @property
    def train_sequences(self) -> np.ndarray:
        """int64 [S, 3]: (user, start, stop)."""
        ...

    @property
    def num_items(self) -> int:
        """Number of items in the catalogue."""
        ...

    def views(self, split: str) -> np.ndarray:
        """int64 [n, 3]: (user, start, stop); the target is the event at `stop`."""
        ...


def item_column(prepared: PreparedLog) -> Int[np.ndarray, " E"]:
    """Returns the items of all events, checked.

    Raises:
        ValueError: an event names an item that the catalogue lacks.
    """
    items = np.asarray(prepared.columns["item"])
    if len(items) and (items.min() < 0 or items.max() >= prepared.num_items):
        event = int(np.flatnonzero((items < 0) | (items >= prepared.num_items))[0])
        raise ValueError(
            f"columns/item: event {event} has item {items[event]}: "
            f"must lie in [0, {prepared.num_items})"
        )
    return items


def event_columns(prepared: PreparedLog) -> dict[str, Shaped[np.ndarray, " E"]]:
    """Returns what the log says of all events, `EVENT_FIELDS`, checked.

    Raises:
        ValueError: as `item_column`, or the columns differ in length.
    """
    columns = {"item": item_column(prepared)}
    for name in EVENT_FIELDS:
        columns[name] = np.asarray(prepared.columns[name])
        if columns[name].shape != columns["item"].shape:
            raise ValueError(
                f"columns/{name}: has shape {list(columns[name].shape)}, "
                f"columns/item {list(columns['item'].shape)}"
            )
    return columns


def check_ranges(name: str, ranges: Int[np.ndarray, "n 3"], limit: int) -> None:
    """Checks rows (user, start, stop) against the number of events.

    Raises:
        ValueError: a row with `start` below 0 or above `stop`, or `stop` above `limit`.
    """
    start, stop = ranges[:, 1], ranges[:, 2]
    bad = np.flatnonzero((start < 0) | (stop < start) | (stop > limit))
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"{name}: row {row} is {np.asarray(ranges[row]).tolist()} (user, start, stop): "
            f"must have 0 <= start <= stop <= {limit}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Examples as arrays.

    Attributes:
        start: int64 [n], position of the first item in the event columns.
        size: int32 [n], items in the example, history and targets together.
        num_targets: int32 [n], how many of the last items are targets; at least 1, at most size.
        left_out: number of views or sequences that hold nothing to learn: no history, say.
    """

    start: Int[np.ndarray, " n"]
    size: Int[np.ndarray, " n"]
    num_targets: Int[np.ndarray, " n"]
    left_out: int

    def __len__(self) -> int:
        return len(self.start)


def window_examples(views: Int[np.ndarray, "n 3"], max_items: int) -> Examples:
    """Returns one example a view: its newest `max_items` history items, then its target.

    Args:
        views: rows (user, start, stop): history `[start, stop)`, target at `stop`.
        max_items: items of history that an example shows at most.
    """
    views = np.asarray(views)
    views_start, stop = views[:, 1], views[:, 2]
    kept = stop > views_start
    start = np.maximum(views_start, stop - max_items)[kept]
    size = (stop[kept] + 1 - start).astype(np.int32)
    left_out = int(len(views) - np.count_nonzero(kept))
    return Examples(start.astype(np.int64), size, np.ones(len(size), np.int32), left_out)


def history_examples(
    sequences: Int[np.ndarray, "n 3"],
    max_items: int,
    stride: int | None = None,
    first_items: bool = False,
) -> Examples:
    """Returns examples in which every interaction but a sequence's first is a target once.

    A sequence of at most `max_items + 1` items is one example, and all its items but the first are
    targets: causal attention gives each its own history. A longer one is seen through windows of
    `max_items + 1` items that move on by `stride`; in the second and later windows only the items
    that no earlier window held are targets, the others are their context. The last window ends
    with the sequence. With the default stride, half a window, no target of a later window sees
    less than the newest half of `max_items`, at twice the cost of windows that do not overlap.

    Args:
        sequences: rows (user, start, stop): the training items `[start, stop)`.
        max_items: items of history that a target sees at most.
        stride: new items a window, from 1 (every target sees all it may) to `max_items`.
            None: half of `max_items + 1`.
        first_items: a sequence's first item is a target too, of an empty history.
    """
    sequences = np.asarray(sequences)
    window = max_items + 1
    stride = window // 2 if stride is None else stride
    length = sequences[:, 2] - sequences[:, 1]
    kept = length > (0 if first_items else 1)
    first, stop, length = sequences[kept, 1], sequences[kept, 2], length[kept]
    later = -(-np.maximum(length - window, 0) // stride)  # windows after the first
    count = later + 1
    of_sequence = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(of_sequence)) - np.repeat(np.cumsum(count) - count, count)
    first, stop = first[of_sequence], stop[of_sequence]
    end = np.minimum(first + window + number * stride, stop)
    begin = np.maximum(first, end - window)
    first_target = first if first_items else first + 1
    target_begin = np.where(number == 0, first_target, first + window + (number - 1) * stride)
    return Examples(
        begin.astype(np.int64),
        (end - begin).astype(np.int32),
        (end - target_begin).astype(np.int32),
        int(len(sequences) - np.count_nonzero(kept)),
    )
