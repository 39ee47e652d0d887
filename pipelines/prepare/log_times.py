"""The times of a log: what lies outside the window that a config asks for, and where the rest lies.

Counted chunk by chunk while the log is read, in any order, so that no column is gone through again.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from pipelines.prepare.log_options import LogOptions
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import TICKS_PER_SECOND

BEFORE, AFTER = "left_out_before_time_from", "left_out_after_time_to"
"""Names of the counts of rows outside the window, as `BadRows.leave_out` takes them."""

_DAY = 86_400 * TICKS_PER_SECOND
_TRIMMED = 1000  # One row in so many, at each end, is not the log's bulk.


def within_window(chunk: pl.DataFrame, options: LogOptions, bad_rows: BadRows) -> pl.DataFrame:
    """Returns the rows of a chunk that the config's window of time holds, and counts the others.

    Args:
        chunk: has a column `time`, in nanoseconds.
        options: have the window.
        bad_rows: is told how many rows are left out.
    """
    if not options.has_window or chunk.is_empty():
        return chunk
    time = chunk["time"].to_numpy()
    stays = np.ones(len(time), bool)
    if options.time_from is not None:
        stays &= time >= options.time_from
        bad_rows.leave_out(BEFORE, int(np.count_nonzero(~stays)))
    if options.time_to is not None:
        is_late = time >= options.time_to
        stays &= ~is_late
        bad_rows.leave_out(AFTER, int(np.count_nonzero(is_late)))
    return chunk if stays.all() else chunk.filter(pl.Series(stays))


def outside_window(bad_rows: BadRows) -> dict[str, int]:
    """Returns how many rows `within_window` has left out, `before` and `after`."""
    counts = bad_rows.left_out
    return {"before": counts.get(BEFORE, 0), "after": counts.get(AFTER, 0)}


@dataclasses.dataclass
class LogTimes:
    """Where the times of a log's rows lie.

    Attributes:
        earliest: nanoseconds since 1970 UTC; None before there is a row.
        latest: as `earliest`.
        days: rows of each day, by its number since 1970.
    """

    earliest: int | None = None
    latest: int | None = None
    days: dict[int, int] = dataclasses.field(default_factory=dict)

    def add(self, time: Int64[np.ndarray, " n"]) -> None:
        """Counts rows by their times, in nanoseconds."""
        if not len(time):
            return
        low, high = int(time.min()), int(time.max())
        self._extend(low, high)
        first = low // _DAY
        if high // _DAY == first:
            self.days[first] = self.days.get(first, 0) + len(time)
            return
        # 64 bits of nanoseconds are 213,504 days.
        counts = np.bincount(time // _DAY - first)
        for day in np.flatnonzero(counts):
            self.days[first + int(day)] = self.days.get(first + int(day), 0) + int(counts[day])

    def to_json(self) -> dict[str, Any]:
        """Returns what `merge` takes, as JSON knows it."""
        return {"range": [self.earliest, self.latest], "days": list(self.days.items())}

    def merge(self, other: Mapping[str, Any]) -> None:
        """Adds what another has counted, as its `to_json` says it."""
        if other["days"]:
            self._extend(*other["range"])
        for day, count in other["days"]:
            self.days[day] = self.days.get(day, 0) + count

    def report(self) -> dict[str, Any]:
        """Returns the earliest and latest time, and the days in which the bulk of the rows lies.

        The bulk is all rows but the outermost thousandth at each end, and at least one row there;
        None for fewer than three rows.
        """
        if self.earliest is None or self.latest is None:
            return {"earliest": None, "latest": None, "bulk": None}
        days = sorted(self.days)
        upto = np.cumsum([self.days[day] for day in days])
        rows = int(upto[-1])
        trimmed = max(1, rows // _TRIMMED)
        bulk = None
        if rows >= 3:
            ends = np.searchsorted(upto, [trimmed, rows - 1 - trimmed], side="right")
            bulk = [_text(days[end] * _DAY)[:10] for end in ends]
        return {"earliest": _text(self.earliest), "latest": _text(self.latest), "bulk": bulk}

    def _extend(self, low: int, high: int) -> None:
        self.earliest = low if self.earliest is None else min(low, self.earliest)
        self.latest = high if self.latest is None else max(high, self.latest)


def _text(nanoseconds: int) -> str:
    """Returns a time as ISO 8601 in UTC, whole seconds, rounded down."""
    since = datetime.timedelta(seconds=nanoseconds // TICKS_PER_SECOND)
    return f"{(datetime.datetime(1970, 1, 1) + since).isoformat()}Z"
