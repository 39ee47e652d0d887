"""Prompts for evaluation and for serving: right-padded histories in few, fixed shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from pipelines.batches.examples import (
    EVENT_FIELDS,
    NOTHING,
    PreparedLog,
    check_ranges,
    event_columns,
)
from pipelines.batches.row_source import Batch
from pipelines.batches.shuffle import shuffled_rows

_SMALLEST_BUCKET = 5


def eval_batches(
    prepared: PreparedLog,
    split: str,
    *,
    batch_size: int,
    max_items: int,
    max_users: int | None = None,
    seed: int = 0,
) -> EvalBatches:
    """Returns a split's views as batches of prompts, always the same in the same order.

    A batch is a dict of NumPy arrays:

    - `item`, `event` int32 and `time` int64 [B, P]: the newest `max_items` events of the history,
      oldest first, padded with -1 at the end; `lengths` int32 [B], how many they are.
    - `history` int32 [B, H]: the view's whole history, newest last, padded with -1 at the end.
    - `target`, `user` int32 [B]; `row` int64 [B], the view's row in the split; -1 where invalid.
    - `valid` bool [B]: False for the rows that fill up the last batch.

    Views go by length of history, so that a batch is hardly padded, and shapes come in buckets:
    P is `max_items`, a half, a quarter, … of it (not under 5), H is a power of two.

    Args:
        prepared: the prepared data set.
        split: "valid" or "test" (or "train").
        batch_size: B.
        max_items: history items that a prompt shows at most, the newest ones.
        max_users: a sample of this many views, drawn by `seed`; a larger sample of the same seed
            holds a smaller one. None: all.
        seed: of the sample.

    Raises:
        ValueError: arguments that do not fit the data, or an empty split.
    """
    columns = event_columns(prepared)
    views = np.asarray(prepared.views(split))
    check_ranges(f"splits/{split}", views, len(columns["item"]) - 1)
    _check_sizes(batch_size, max_items)
    rows = chosen_rows(split, len(views), max_users, seed)
    return EvalBatches(columns, views, rows, batch_size, max_items)


def chosen_rows(
    split: str, num_views: int, max_users: int | None, seed: int
) -> Int[np.ndarray, " n"]:
    """Returns the rows of a split's views that are asked for, ascending.

    Raises:
        ValueError: there are no views, or `max_users` is below 1.
    """
    if not num_views:
        raise ValueError(f"splits/{split}: no views: needs at least one")
    if max_users is not None and max_users < 1:
        raise ValueError(f"max_users={max_users}: must be at least 1, or None for all")
    rows = np.arange(num_views)
    if max_users is not None and max_users < num_views:
        rows = np.sort(shuffled_rows(rows[:max_users], num_views, seed=seed))
    return rows


class EvalBatches:
    """Batches of prompts, as `eval_batches` makes them; can be gone through again and again.

    Attributes:
        num_views: number of valid rows in all batches together.
        shapes: the distinct (P, H) of the batches: as many compilations.
    """

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        views: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        max_items: int,
    ):
        self._columns, self._views = columns, views
        self._batch_size, self._max_items = batch_size, max_items
        lengths = views[rows, 2] - views[rows, 1]
        self._rows = rows[np.argsort(lengths, kind="stable")]
        self.num_views = len(rows)
        # Views are sorted: a batch's last one has the longest history.
        ends = np.minimum(np.arange(1, len(self) + 1) * batch_size, len(rows)) - 1
        longest = np.sort(lengths)[ends]
        self._buckets = [_bucket(int(length), max_items) for length in longest]
        self.shapes = sorted(set(self._buckets))

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for number, (shown, held) in enumerate(self._buckets):
            rows = self._rows[number * self._batch_size :][: self._batch_size]
            user, start, stop = self._views[rows].T
            size = stop - start
            events = np.repeat(start - (np.cumsum(size) - size), size) + np.arange(size.sum())
            columns = {name: self._columns[name][events] for name in EVENT_FIELDS}
            batch = _prompts(columns, size, self._batch_size, self._max_items, shown, held)
            for key, values, dtype in (
                ("target", self._columns["item"][stop], np.int32),
                ("user", user, np.int32),
                ("row", rows, np.int64),
            ):
                batch[key] = filled_up(values, self._batch_size, dtype)
            yield batch


def prompt_batch(
    histories: Sequence[Sequence[int] | Int[np.ndarray, " n"]],
    num_items: int,
    max_items: int,
    batch_size: int,
) -> Batch:
    """Returns given histories as one batch of prompts.

    Args:
        histories: item ids, oldest first; at most `batch_size` of them. An empty one is allowed.
        num_items: items that there are.
        max_items: history items that a prompt shows at most, the newest ones.
        batch_size: B; the rows past the given ones are not valid.

    Returns:
        A batch with the keys of `eval_batches` but `target`, `event` and `time`; `user` and `row`
        are the history's place in `histories`.

    Raises:
        ValueError: too many histories, or an item that there is not.
    """
    _check_sizes(batch_size, max_items)
    if len(histories) > batch_size:
        raise ValueError(f"{len(histories)} histories: at most batch_size={batch_size} in a batch")
    arrays = [np.asarray(history, np.int64).reshape(-1) for history in histories]
    for number, array in enumerate(arrays):
        bad = np.flatnonzero((array < 0) | (array >= num_items))
        if len(bad):
            raise ValueError(
                f"history {number}: item {array[bad[0]]} at place {bad[0]}: "
                f"must lie in [0, {num_items})"
            )
    size = np.array([len(array) for array in arrays], np.int64)
    shown, held = _bucket(int(size.max(initial=0)), max_items)
    items = np.concatenate([*arrays, np.zeros(0, np.int64)])
    batch = _prompts({"item": items}, size, batch_size, max_items, shown, held)
    batch["user"] = filled_up(np.arange(len(arrays)), batch_size, np.int32)
    batch["row"] = batch["user"].astype(np.int64)
    return batch


def _check_sizes(batch_size: int, max_items: int) -> None:
    for name, value in (("batch_size", batch_size), ("max_items", max_items)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")


def _bucket(length: int, max_items: int) -> tuple[int, int]:
    """Returns how many items a prompt shows and a history holds, for the longest of a batch."""
    shown = max_items
    while (half := (shown + 1) // 2) >= max(length, _SMALLEST_BUCKET) and half < shown:
        shown = half
    held = max(length, shown, _SMALLEST_BUCKET)
    return shown, 1 << (held - 1).bit_length()


def filled_up(values: np.ndarray, batch_size: int, dtype: type, fill: int = NOTHING) -> np.ndarray:
    """Returns values [B], with `fill` in the rows that are not valid."""
    filled = np.full(batch_size, fill, dtype)
    filled[: len(values)] = values
    return filled


def _prompts(
    columns: Mapping[str, np.ndarray],
    size: np.ndarray,
    batch_size: int,
    max_items: int,
    shown: int,
    held: int,
) -> Batch:
    """Returns columns, lengths, history and valid of histories that stand one behind the other."""
    end = np.cumsum(size)
    row = np.repeat(np.arange(len(size)), size)
    place = np.arange(len(row)) - (end - size)[row]
    history = np.full((batch_size, held), NOTHING, np.int32)
    history[row, place] = columns["item"]
    cut = np.minimum(size, max_items)
    place = place - (size - cut)[row]
    newest = place >= 0
    row, place = row[newest], place[newest]
    batch = {}
    for name, values in columns.items():
        batch[name] = np.full((batch_size, shown), NOTHING, EVENT_FIELDS[name])
        batch[name][row, place] = values[newest]
    return batch | {
        "lengths": filled_up(cut, batch_size, np.int32, 0),
        "history": history,
        "valid": np.arange(batch_size) < len(size),
    }
