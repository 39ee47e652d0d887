"""A log as records: users one after the other, each one's events oldest first; made in memory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from pipelines.prepare.duplicates import exact_duplicates, kept_events
from pipelines.prepare.event_order import event_order
from pipelines.prepare.ingest import CodedLog, keep, names_of, place_of, read_log, sizes
from pipelines.prepare.kcore import count, k_core
from pipelines.prepare.log_options import LogOptions
from pipelines.prepare.log_times import LogTimes, outside_window
from pipelines.prepare.previous import group_offsets
from pipelines.prepare.ties import shuffle_ties, user_keys
from pipelines.prepared_files import COLUMNS
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import TICKS_PER_SECOND, RawDataset

Progress = Callable[[int], None]
NOT_GROUPED = "a source with a given split must group its interactions by user"


@dataclasses.dataclass
class OrderedLog:
    """What is left of a log, in the order of its records.

    Attributes:
        columns: `item` int32 (row of `items`), `time` int64 and `event` int32, each `[E]`, as they
            lie in the prepared folder; in memory, or mapped from there.
        ticks: `[E]`: the same times in full, in nanoseconds; `time` has whole seconds of them.
        offsets: `[U + 1]`: the events of user `u` are `offsets[u]:offsets[u + 1]`.
        users: raw id of each user, numbered by the first of their interactions that is left, or by
            id where ties are shuffled.
        items: the catalogue, columns `ITEM_SCHEMA` and those that `source.columns` names.
        counts: how many users, items and interactions there were at each stage, for the manifest.
        times: where the times of the rows lie, for `pipelines.prepare.log_health`; None without
            times.
        duplicates: how many exact ones were `read` (None without times), and how many events were
            `dropped`.
    """

    columns: Mapping[str, np.ndarray]
    ticks: Int64[np.ndarray, " E"]
    offsets: Int64[np.ndarray, " U+1"]
    users: pl.Series
    items: pl.DataFrame
    counts: dict[str, Any]
    times: dict[str, Any] | None
    duplicates: dict[str, int | None]

    def sizes(self) -> dict[str, int]:
        """Returns how many users, items and interactions are left."""
        return sizes(len(self.users), len(self.items), int(self.offsets[-1]))


class Engine(Protocol):
    """Reads a log, orders it and takes its k-core; all engines give the same, bit for bit."""

    def __call__(
        self,
        raw: RawDataset,
        bad_rows: BadRows,
        options: LogOptions,
        folder: Path,
        progress: Progress | None = None,
    ) -> OrderedLog:
        """Writes the columns and returns the log.

        Args:
            raw: what a source found.
            bad_rows: is told of rows that are wrong.
            options: what is done to the log.
            folder: `columns/NAME.npy` below it are written; it is empty but for what this makes.
            progress: is told now and then how many rows have been read.

        Raises:
            ValueError: a mistake in the data, or nothing is left of it.
            OSError: the disk is full or refuses to be written.
        """
        ...


def order_in_memory(
    raw: RawDataset,
    bad_rows: BadRows,
    options: LogOptions,
    folder: Path,
    progress: Progress | None = None,
) -> OrderedLog:
    """Orders a log with NumPy and Polars in this process, see `Engine`."""
    times = LogTimes() if raw.has_times else None
    log = read_log(raw, bad_rows, progress, options=options, times=times)
    counts: dict[str, Any] = {"read": {**raw.counts, **bad_rows.left_out, **log.sizes()}}
    by_id = options.ties == "shuffled"
    if raw.given_split is None:
        log.place = _sort(log)
        if by_id:
            _shuffle_ties(log)
            log = keep(log, by_id=True)
    log, duplicates = _without_duplicates(raw, log, options, counts)
    if options.takes_core:
        try:
            kept = k_core(log.user, log.item, options.k_core)
        except ValueError as error:
            raise ValueError(f"{names_of(raw)}: {error}{bad_rows.in_words()}") from error
        log = keep(log, kept, drop_items=True, by_id=by_id)
        counts["after_k_core"] = log.sizes()
    if may_leave_single_interactions(raw, options):
        log = _without_single_interactions(raw, log, options, bad_rows)
    if (log.user[1:] < log.user[:-1]).any():
        if raw.given_split is not None:
            raise ValueError(NOT_GROUPED)
        log.place = None
        _sort(log)  # Users were numbered anew; each one's events stay as they are.
    offsets = group_offsets(log.user)
    ticks = log.time
    log.time = ticks // TICKS_PER_SECOND
    columns = {
        name: np.ascontiguousarray(getattr(log, name), kind) for name, kind in COLUMNS.items()
    }
    (folder / "columns").mkdir()
    for name, column in columns.items():
        with writing(f"columns/{name}.npy"):
            np.save(folder / "columns" / f"{name}.npy", column, allow_pickle=False)
    return OrderedLog(
        columns,
        ticks,
        offsets,
        log.users,
        log.items,
        counts,
        None if times is None else {**times.report(), **outside_window(bad_rows)},
        duplicates,
    )


def _sort(log: CodedLog) -> Int32[np.ndarray, " E"]:
    """Puts a log's rows in order and returns where each of them was."""
    order, offsets = event_order(log.user, log.time, len(log.users))
    # They need not be fetched from all over memory.
    log.user = np.repeat(np.arange(len(log.users), dtype=np.int32), np.diff(offsets))
    for name in ("item", "time", "event"):  # One at a time, so that only one stands there twice.
        setattr(log, name, getattr(log, name)[order])
    return order


def _shuffle_ties(log: CodedLog) -> None:
    offsets = group_offsets(log.user)
    keys = user_keys(log.users)[log.user[offsets[:-1]]]
    columns = {name: getattr(log, name) for name in ("item", "time", "event", "place")}
    shuffle_ties(columns, offsets, keys)


def _without_duplicates(
    raw: RawDataset, log: CodedLog, options: LogOptions, counts: dict[str, Any]
) -> tuple[CodedLog, dict[str, int | None]]:
    """Returns the log without the duplicates that go, and what to tell of them."""
    offsets = group_offsets(log.user)
    exact = np.zeros(0, np.int64)
    if raw.has_times:
        exact = exact_duplicates(log.item, log.time, log.event, offsets)
    stays = kept_events(options.duplicates, log.item, offsets, exact)
    size = len(log.user)
    if stays is not None:
        log = keep(log, stays, by_id=options.ties == "shuffled")
        counts["after_duplicates"] = log.sizes()
    read = len(exact) if raw.has_times else None
    return log, {"read": read, "dropped": size - len(log.user)}


def may_leave_single_interactions(raw: RawDataset, options: LogOptions) -> bool:
    """Returns whether users of one interaction may be left, which are bad rows then."""
    return raw.given_split is None and options.k_core[0] < 2


def report_single_interactions(
    raw: RawDataset, bad_rows: BadRows, user: str, single: int, num_users: int
) -> None:
    """Tells of users with one interaction, from which nothing can be predicted.

    A k-core of 2 or more is the usual way to drop them; without it they are bad rows.

    Args:
        raw: the log.
        bad_rows: is told.
        user: raw id of the first of them.
        single: how many there are.
        num_users: how many users there are.

    Raises:
        ValueError: bad rows are errors; or no other users are there.
    """
    bad_rows.add(
        "single_interaction",
        f"{place_of(raw, 'user', user)}: user {user!r} has one interaction ({single} users have), "
        "which leaves nothing to predict; k_core=2 or more drops such users",
        single,
    )
    if single == num_users:
        raise ValueError(
            f"{names_of(raw)}: all {single} users have one interaction: there is nothing to prepare"
            f"{bad_rows.in_words()}"
        )


@contextlib.contextmanager
def writing(name: str) -> Generator[None]:
    """Names the file in what goes wrong while it is written.

    Raises:
        OSError: in place of what the body raised.
    """
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        raise OSError(
            f"{name} of the prepared data set cannot be written: {error}; nothing is left "
            "half-written: make room, or choose another disk, and run again"
        ) from error


def _without_single_interactions(
    raw: RawDataset, log: CodedLog, options: LogOptions, bad_rows: BadRows
) -> CodedLog:
    length = count(log.user, len(log.users))
    if (length > 1).all():
        return log
    user = log.users[int(np.argmin(length > 1))]
    single = int((length == 1).sum())
    report_single_interactions(raw, bad_rows, user, single, len(log.users))
    drop_items = raw.items is None or options.takes_core
    by_id = options.ties == "shuffled"
    return keep(log, (length > 1)[log.user], drop_items=drop_items, by_id=by_id)
