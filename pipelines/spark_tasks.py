"""What Spark's executors do with a log: each function takes a partition and gives the next one.

Rows travel as Arrow batches. Once a user's interactions have been brought together they are one
row: the column's values of all of them, one after the other, as the bytes of a `binary` value, so
that a batch of users is a few arrays and nothing here runs once a row. This file does not import
Spark.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Bool, Int, Int32, Int64

from pipelines.bad_rows import Action, BadRows
from pipelines.ids import IdCodes
from pipelines.ingest import check_events, report_unknown
from pipelines.interactions import Part
from pipelines.prepared import COLUMNS

# A row's place in the log: the number of its part, times this, plus its number in the part.
PLACES = 1 << 32
# A user's interactions are one row, which Java's arrays bound.
MAX_USER_ROWS = 20_000_000
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
# A row a user; `first` and `last` are places.
USERS = pa.schema(
    [
        ("user", pa.string()),
        ("first", pa.int64()),
        ("item", pa.binary()),
        ("time", pa.binary()),
        ("event", pa.binary()),
        ("place", pa.binary()),
    ]
)
COUNTS = pa.schema([("item", pa.int32()), ("count", pa.int64())])
KEPT = pa.schema(
    [
        ("user", pa.string()),
        ("first", pa.int64()),
        ("last", pa.int64()),
        ("item", pa.binary()),
        ("time", pa.binary()),
        ("event", pa.binary()),
    ]
)
# A row some thousand users: `users` is their ids in Arrow's IPC format, `length` int64.
PIECES = pa.schema(
    [
        ("first", pa.int64()),
        ("last", pa.int64()),
        ("grouped", pa.bool_()),
        ("users", pa.binary()),
        ("length", pa.binary()),
        ("item", pa.binary()),
        ("time", pa.binary()),
        ("event", pa.binary()),
    ]
)
_TYPES = {**COLUMNS, "place": "int64"}


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
    """

    parts: Sequence[Part]
    event_types: Sequence[str]
    action: Action
    may_lack_items: bool = True


@dataclasses.dataclass(frozen=True)
class Round:
    """Which items are left in a round of the k-core.

    Attributes:
        before: `[N]`: which were left two rounds ago; None: a user of any length was.
        now: `[N]`: which were left one round ago.
        left: `[N]`: which are left.
        k: the least number of interactions.
    """

    before: Bool[np.ndarray, " N"] | None
    now: Bool[np.ndarray, " N"]
    left: Bool[np.ndarray, " N"]
    k: int


def read(
    batches: Iterable[pa.RecordBatch], log: Shared[Log], catalogue: Shared[ItemRows] | None
) -> Iterator[pa.RecordBatch]:
    """Reads parts of the log and gives their rows, and a note on each part.

    A note is JSON: `part`, `rows`, `counts`, `first` and `left_out` of its `BadRows`, and `error`,
    the kind and text of what ended the reading, or None. An error is a note so that the driver can
    tell which comes first in the log, and shows it as it is.

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
    num_rows, error = 0, None
    try:
        for chunk in part.chunks(bad_rows):
            check_events(part.name, chunk, log.event_types)
            rows = None
            if catalogue is not None:
                rows = catalogue.find(chunk["item"])
                if rows.min(initial=0) < 0:
                    is_known = pl.Series(rows >= 0)
                    unknown = chunk.filter(~is_known)
                    report_unknown(part.name, unknown, bad_rows, may_go=log.may_lack_items)
                    chunk, rows = chunk.filter(is_known), rows[rows >= 0]
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


def gather_users(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Makes one row of all interactions of a user.

    Args:
        batches: `NUMBERED`, a user's rows next to each other.

    Yields:
        Batches of `USERS`.

    Raises:
        ValueError: a user has more than `MAX_USER_ROWS` interactions.
    """
    # Of the last user there may be more in the next batch.
    pending: list[pl.DataFrame] = []
    for batch in batches:
        frame = pl.DataFrame(batch)
        if frame.is_empty():
            continue
        starts = np.flatnonzero(np.diff(frame["user"].rle_id().to_numpy(), prepend=-1))
        if pending and pending[0]["user"][0] == frame["user"][0]:
            end = int(starts[1]) if len(starts) > 1 else len(frame)
            pending.append(frame[:end])
            if sum(map(len, pending)) > MAX_USER_ROWS:
                raise ValueError(
                    f"user {pending[0]['user'][0]!r} has more than {MAX_USER_ROWS} interactions, "
                    "which Spark cannot bring together; is it a stand-in for unknown users? Leave "
                    "such rows out, or prepare with --engine=polars"
                )
            frame, starts = frame[end:], starts[1:] - end
            if frame.is_empty():
                continue
        if pending:
            yield _user_rows(pl.concat(pending), np.zeros(1, np.int64))
        last = int(starts[-1])
        if last:
            yield _user_rows(frame[:last], starts[:-1])
        pending = [frame[last:]]
    if pending:
        yield _user_rows(pl.concat(pending), np.zeros(1, np.int64))


def _user_rows(frame: pl.DataFrame, starts: Int[np.ndarray, " n"]) -> pa.RecordBatch:
    place = frame["place"].to_numpy()
    offsets = np.append(starts, len(frame))
    columns = {
        "user": frame["user"].gather(starts).to_arrow().cast(pa.string()),
        "first": np.minimum.reduceat(place, starts),
    }
    columns |= {
        name: _packed(frame[name].to_numpy(), offsets)
        for name in ("item", "time", "event", "place")
    }
    return pa.RecordBatch.from_pydict(columns, schema=USERS)


def count_leaving(
    batches: Iterable[pa.RecordBatch], state: Shared[Round]
) -> Iterator[pa.RecordBatch]:
    """Counts, by item, the interactions of users that a round of the k-core drops.

    A user is left as long as they have `k` interactions with items that are left; so one that has
    them in `before` and no more in `now` goes, and takes off the counts of the items in `left`.

    Args:
        batches: the column `item` of `USERS`.
        state: which items are left.

    Yields:
        A batch of `COUNTS`.
    """
    masks = state.value
    total = np.zeros(len(masks.now), np.int64)
    for batch in batches:
        item, offsets = _unpacked(batch, "item")
        if not len(item):
            continue
        starts = offsets[:-1]
        goes = np.add.reduceat(masks.now[item], starts, dtype=np.int64) < masks.k
        if masks.before is not None:
            goes &= np.add.reduceat(masks.before[item], starts, dtype=np.int64) >= masks.k
        if goes.any():
            lost = item[np.repeat(goes, np.diff(offsets))]
            np.add.at(total, lost[masks.left[lost]], 1)
    found = np.flatnonzero(total)
    yield pa.RecordBatch.from_pydict({"item": found, "count": total[found]}, schema=COUNTS)


def keep_left(
    batches: Iterable[pa.RecordBatch], new_row: Shared[Int32[np.ndarray, " N"]], least: int
) -> Iterator[pa.RecordBatch]:
    """Keeps the interactions with items that are left, of users that have enough of them.

    Args:
        batches: `USERS`.
        new_row: row of each item in the catalogue that is left, -1 for those that are not.
        least: interactions that a user must have.

    Yields:
        Batches of `KEPT`.
    """
    for batch in batches:
        item, offsets = _unpacked(batch, "item")
        if not len(item):
            continue
        item = new_row.value[item]
        length = np.add.reduceat(item >= 0, offsets[:-1], dtype=np.int64)
        stays = length >= least
        if not stays.any():
            continue
        rows = (item >= 0) & np.repeat(stays, np.diff(offsets))
        new_offsets = np.concatenate([[0], np.cumsum(length[stays])])
        place = _unpacked(batch, "place")[0][rows]
        yield pa.RecordBatch.from_pydict(
            {
                "user": batch.column("user").filter(pa.array(stays)),
                "first": np.minimum.reduceat(place, new_offsets[:-1]),
                "last": np.maximum.reduceat(place, new_offsets[:-1]),
                "item": _packed(item[rows], new_offsets),
                "time": _packed(_unpacked(batch, "time")[0][rows], new_offsets),
                "event": _packed(_unpacked(batch, "event")[0][rows], new_offsets),
            },
            schema=KEPT,
        )


def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Makes one row of some thousand users.

    Args:
        batches: `KEPT`, in order of `first`.

    Yields:
        Batches of `PIECES`; `grouped` says whether no two users' interactions are mixed in the log.
    """
    for batch in batches:
        if not batch.num_rows:
            continue
        first, last = (batch.column(name).to_numpy() for name in ("first", "last"))
        users = io.BytesIO()
        pl.DataFrame({"user": pl.Series(batch.column("user"))}).write_ipc(users)
        columns: Mapping[str, object] = {
            "first": first[0],
            "last": last[-1],
            "grouped": bool((first[1:] > last[:-1]).all()),
            "users": users.getvalue(),
            "length": np.diff(_unpacked(batch, "item")[1]).tobytes(),
            **{name: _unpacked(batch, name)[0].tobytes() for name in ("item", "time", "event")},
        }
        yield pa.RecordBatch.from_pydict(
            {name: [value] for name, value in columns.items()}, schema=PIECES
        )


def users_of(piece: bytes) -> pl.Series:
    """Returns the raw ids in `PIECES`' column `users`."""
    return pl.read_ipc(io.BytesIO(piece))["user"]


def _packed(values: np.ndarray, offsets: Int[np.ndarray, " n+1"]) -> pa.Array:
    """Makes `binary` values of the bytes of `values[offsets[i]:offsets[i + 1]]`."""
    values = np.ascontiguousarray(values)
    ends = offsets * values.itemsize
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{ends[-1]} bytes of users in one batch; Arrow holds at most 2 GiB")
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def _unpacked(batch: pa.RecordBatch, name: str) -> tuple[np.ndarray, Int64[np.ndarray, " n+1"]]:
    """Returns a column's values of all users, and where each user's begin."""
    array, kind = batch.column(name), np.dtype(_TYPES[name])
    _, ends, data = array.buffers()
    where = slice(array.offset, array.offset + len(array) + 1)
    offsets = np.frombuffer(ends, np.int32)[where].astype(np.int64)
    if not len(array) or data is None:
        return np.zeros(0, kind), np.zeros(1, np.int64)
    begin, end = offsets[0], offsets[-1]
    values = np.frombuffer(data, np.uint8)[begin:end].view(kind)
    return values, (offsets - begin) // kind.itemsize
