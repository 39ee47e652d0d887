"""What Spark's executors do first: read the log's parts, and number its items.

Rows travel as Arrow batches. This file does not import Spark.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Int32

from pipelines.prepare.ids import IdCodes
from pipelines.prepare.ingest import check_events, report_unknown
from pipelines.prepare.log_options import AS_IT_IS, LogOptions
from pipelines.prepare.log_times import LogTimes, within_window
from pipelines.tables.bad_rows import Action, BadRows
from pipelines.tables.interactions import Part

# A row's place in the log: the number of its part, times this, plus its number in the part.
PLACES = 1 << 32
_BATCH_ROWS = 1 << 16

NOTE = pa.field("note", pa.string())
_ROW = [
    pa.field("time", pa.int64()),
    pa.field("event", pa.int32()),
    pa.field("place", pa.int64()),
]
# Rows with the item as text or as its number; a row with a note has nothing else.
READ_TEXT = pa.schema([("user", pa.string()), ("item", pa.string()), *_ROW, NOTE])
READ_NUMBER = pa.schema([("user", pa.string()), ("item", pa.int32()), *_ROW, NOTE])
NUMBERED = pa.schema([("user", pa.string()), ("item", pa.int32()), *_ROW])


class Shared[T](Protocol):
    """A value that every executor has: Spark's `Broadcast`."""

    @property
    def value(self) -> T:
        """The value."""
        ...


class ItemRows:
    """Finds the rows of a catalogue; travels as its ids alone."""

    def __init__(self, ids: pl.Series) -> None:
        self._ids = ids

    @property
    def ids(self) -> pl.Series:
        """The ids, in the catalogue's order."""
        return self._ids

    def __getstate__(self) -> pl.Series:
        return self._ids

    def __setstate__(self, ids: pl.Series) -> None:
        self._ids = ids

    def find(self, items: pl.Series) -> Int32[np.ndarray, " n"]:
        """Returns the row of each raw id, -1 where the catalogue lacks it."""
        codes, rows = self._codes
        found = codes.encode(items)
        return np.where(found < len(rows), rows[np.minimum(found, len(rows) - 1)], np.int32(-1))

    @functools.cached_property
    def _codes(self) -> tuple[IdCodes, Int32[np.ndarray, " n"]]:
        codes = IdCodes()
        listed = codes.encode(self._ids)
        rows = np.empty(len(listed), np.int32)
        rows[listed] = np.arange(len(listed), dtype=np.int32)
        return codes, rows


@dataclasses.dataclass(frozen=True)
class Log:
    """What is needed to read a log.

    Attributes:
        parts: the log, in order.
        event_types: names of its event types.
        action: what becomes of rows that are wrong.
        may_lack_items: whether rows whose items the catalogue lacks can be left out at all.
        options: have the window of time outside of which rows are not part of the log.
    """

    parts: Sequence[Part]
    event_types: Sequence[str]
    action: Action
    may_lack_items: bool = True
    options: LogOptions = AS_IT_IS


def read(
    batches: Iterable[pa.RecordBatch], log: Shared[Log], catalogue: Shared[ItemRows] | None
) -> Iterator[pa.RecordBatch]:
    """Reads parts of the log and gives their rows, and a note on each part.

    A note is JSON: `part`, `rows`, `times` (of its `LogTimes`), `counts`, `first` and `left_out` of
    its `BadRows`, and `error`, the kind and text of what ended the reading, or None. An error is a
    note so that the driver can tell which comes first in the log, and shows it as it is.

    Args:
        batches: one column, the numbers of the parts.
        log: the log.
        catalogue: turns items into rows of the catalogue; None: they stay text.

    Yields:
        Batches of `READ_TEXT` or `READ_NUMBER`.
    """
    for batch in batches:
        for number in batch.column(0).to_pylist():
            yield from _read_part(number, log.value, None if catalogue is None else catalogue.value)


def _read_part(number: int, log: Log, catalogue: ItemRows | None) -> Iterator[pa.RecordBatch]:
    part, bad_rows = log.parts[number], BadRows(log.action)
    schema = READ_TEXT if catalogue is None else READ_NUMBER
    num_rows, error, times = 0, None, LogTimes()
    try:
        for chunk in part.chunks(bad_rows):
            check_events(part.name, chunk, log.event_types)
            chunk = within_window(chunk, log.options, bad_rows)
            rows = None
            if catalogue is not None:
                rows = catalogue.find(chunk["item"])
                if rows.min(initial=0) < 0:
                    is_known = pl.Series(rows >= 0)
                    unknown = chunk.filter(~is_known)
                    may_go = log.may_lack_items
                    report_unknown(part.name, unknown, catalogue.ids, bad_rows, may_go=may_go)
                    chunk, rows = chunk.filter(is_known), rows[rows >= 0]
            times.add(chunk["time"].to_numpy())
            place = np.arange(len(chunk), dtype=np.int64) + (number * PLACES + num_rows)
            num_rows += len(chunk)
            yield from _batches(
                pl.DataFrame(
                    {
                        "user": chunk["user"].cast(pl.String),
                        "item": chunk["item"].cast(pl.String) if rows is None else rows,
                        "time": chunk["time"].cast(pl.Int64),
                        "event": chunk["event"].cast(pl.Int32),
                        "place": place,
                        "note": pl.repeat(None, len(chunk), dtype=pl.String, eager=True),
                    }
                ),
                schema,
            )
    except (ValueError, OSError) as problem:
        kind = "OSError" if isinstance(problem, OSError) else "ValueError"
        error = {"kind": kind, "message": str(problem)}
    note = {
        "part": number,
        "rows": num_rows,
        "times": times.to_json(),
        "counts": bad_rows.counts,
        "first": bad_rows.first,
        "left_out": bad_rows.left_out,
        "error": error,
    }
    empty = {field.name: [None] for field in schema}
    yield pa.RecordBatch.from_pydict({**empty, "note": [json.dumps(note)]}, schema=schema)


def _batches(frame: pl.DataFrame, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for some in frame.iter_slices(_BATCH_ROWS):
        yield from some.to_arrow().cast(schema).to_batches()


def number_items(
    batches: Iterable[pa.RecordBatch], catalogue: Shared[ItemRows]
) -> Iterator[pa.RecordBatch]:
    """Turns the items of rows without a note into rows of the catalogue.

    Args:
        batches: `NUMBERED`, but with items as text.
        catalogue: has them all.

    Yields:
        Batches of `NUMBERED`.
    """
    for batch in batches:
        rows = catalogue.value.find(pl.Series(batch.column("item")))
        place = batch.schema.get_field_index("item")
        arrays = [*batch.columns[:place], pa.array(rows), *batch.columns[place + 1 :]]
        yield pa.RecordBatch.from_arrays(arrays, schema=NUMBERED)
