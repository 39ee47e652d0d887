"""Prompts for evaluation and for serving: right-padded histories in few, fixed shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from minirec.sids import SidVocab
from pipelines.batches.examples import PreparedLog, check_ranges, item_column, token_table
from pipelines.batches.shuffle import shuffled_rows

Batch = dict[str, np.ndarray]

_SMALLEST_BUCKET = 5


def eval_batches(
    prepared: PreparedLog,
    split: str,
    item_tokens: Int[np.ndarray, "N L"],
    *,
    batch_size: int,
    max_items: int,
    max_users: int | None = None,
    seed: int = 0,
) -> EvalBatches:
    """Returns a split's views as batches of prompts, always the same in the same order.

    A batch is a dict of NumPy arrays:

    - `tokens` int32 [B, T]: BOS and the tokens of the newest `max_items` history items, oldest
      first, right-padded; `lengths` int32 [B], at least 1.
    - `history` int32 [B, H]: the view's whole history, newest last, padded with -1 at the end.
    - `target`, `user` int32 [B]; `row` int64 [B], the view's row in the split; -1 where invalid.
    - `valid` bool [B]: False for the rows that fill up the last batch.

    Views go by length of history, so that a batch is hardly padded, and shapes come in buckets:
    T holds `max_items`, a half, a quarter, … of them (not under 5), H is a power of two.

    Args:
        prepared: the prepared data set.
        split: "valid" or "test" (or "train").
        item_tokens: the tokens of every item's SID.
        batch_size: B.
        max_items: history items that a prompt shows at most, the newest ones.
        max_users: a sample of this many views, drawn by `seed`; a larger sample of the same seed
            holds a smaller one. None: all.
        seed: of the sample.

    Raises:
        ValueError: arguments that do not fit the data, or an empty split.
    """
    table = token_table(item_tokens, prepared.num_items)
    items = item_column(prepared)
    views = np.asarray(prepared.views(split))
    check_ranges(f"splits/{split}", views, len(items) - 1)
    _check_sizes(batch_size, max_items)
    rows = chosen_rows(split, len(views), max_users, seed)
    return EvalBatches(items, table, views, rows, batch_size, max_items)


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
        shapes: the distinct (T, H) of the batches: as many compilations.
    """

    def __init__(
        self,
        items: np.ndarray,
        table: np.ndarray,
        views: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        max_items: int,
    ):
        self._items, self._table, self._views = items, table, views
        self._batch_size, self._max_items = batch_size, max_items
        lengths = views[rows, 2] - views[rows, 1]
        self._rows = rows[np.argsort(lengths, kind="stable")]
        self.num_views = len(rows)
        # Views are sorted: a batch's last one has the longest history.
        ends = np.minimum(np.arange(1, len(self) + 1) * batch_size, len(rows)) - 1
        longest = np.sort(lengths)[ends]
        self._buckets = [_bucket(int(length), max_items) for length in longest]
        num_levels = table.shape[1]
        self.shapes = sorted({(1 + shown * num_levels, held) for shown, held in self._buckets})

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for number, (shown, held) in enumerate(self._buckets):
            rows = self._rows[number * self._batch_size :][: self._batch_size]
            user, start, stop = self._views[rows].T
            size = stop - start
            events = np.repeat(start - (np.cumsum(size) - size), size) + np.arange(size.sum())
            batch = _prompts(
                self._items[events], size, self._table, self._batch_size, self._max_items,
                shown, held,
            )  # fmt: skip
            for key, values, dtype in (
                ("target", self._items[stop], np.int32),
                ("user", user, np.int32),
                ("row", rows, np.int64),
            ):
                batch[key] = filled_up(values, self._batch_size, dtype)
            yield batch


def prompt_batch(
    histories: Sequence[Sequence[int] | Int[np.ndarray, " n"]],
    item_tokens: Int[np.ndarray, "N L"],
    max_items: int,
    batch_size: int,
) -> Batch:
    """Returns given histories as one batch of prompts, the keys of `eval_batches` but `target`.

    Args:
        histories: item ids, oldest first; at most `batch_size` of them. An empty one is allowed.
        item_tokens: the tokens of every item's SID.
        max_items: history items that a prompt shows at most, the newest ones.
        batch_size: B; the rows past the given ones are not valid.

    Returns:
        A batch; `user` and `row` are the history's place in `histories`.

    Raises:
        ValueError: too many histories, or an item that has no row in `item_tokens`.
    """
    num_items = len(item_tokens)
    table = token_table(item_tokens, num_items)
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
    batch = _prompts(items, size, table, batch_size, max_items, shown, held)
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


def filled_up(values: np.ndarray, batch_size: int, dtype: type) -> np.ndarray:
    """Returns values [B], with -1 in the rows that are not valid."""
    filled = np.full(batch_size, -1, dtype)
    filled[: len(values)] = values
    return filled


def _prompts(
    items: np.ndarray,
    size: np.ndarray,
    table: np.ndarray,
    batch_size: int,
    max_items: int,
    shown: int,
    held: int,
) -> Batch:
    """Returns tokens, lengths, history and valid of histories that stand one behind the other."""
    num_levels = table.shape[1]
    end = np.cumsum(size)
    row = np.repeat(np.arange(len(size)), size)
    place = np.arange(len(row)) - (end - size)[row]
    history = np.full((batch_size, held), -1, np.int32)
    history[row, place] = items
    cut = np.minimum(size, max_items)
    place = place - (size - cut)[row]
    newest = place >= 0
    grid = np.full((batch_size, shown), len(table) - 1, np.int64)
    grid[row[newest], place[newest]] = items[newest]
    tokens = np.full((batch_size, 1 + shown * num_levels), SidVocab.BOS, np.int32)
    tokens[:, 1:] = table[grid].reshape(batch_size, -1)
    lengths = np.ones(batch_size, np.int32)
    lengths[: len(size)] += (cut * num_levels).astype(np.int32)
    return {
        "tokens": tokens,
        "lengths": lengths,
        "history": history,
        "valid": np.arange(batch_size) < len(size),
    }
