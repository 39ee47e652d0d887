"""What Spark's executors do with users: bring each one together, filter, number and pack them.

Each function takes the Arrow batches of a partition and gives the next ones. Once a user's
interactions have been brought together they are one row: the column's values of all of them, one
after the other, as the bytes of a `binary` value, so that a batch of users is a few arrays and
nothing here runs once a row. This file does not import Spark.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Bool, Int, Int32, Int64

from pipelines.prepare.duplicates import exact_duplicates, kept_events
from pipelines.prepare.ties import shuffle_ties, user_keys
from pipelines.prepared_files import COLUMNS
from pipelines.spark.read_task import Shared

# A user's interactions are one row, which Java's arrays bound.
MAX_USER_ROWS = 20_000_000

_EVENTS = [(name, pa.binary()) for name in ("item", "time", "event")]  # the bytes of arrays
# A row a user; `first` and `last` are places, `duplicates` counts the exact ones that there were.
_USER = [("user", pa.string()), ("first", pa.int64())]
USERS = pa.schema([*_USER, ("duplicates", pa.int64()), *_EVENTS, ("place", pa.binary())])
COUNTS = pa.schema([("item", pa.int32()), ("count", pa.int64())])
KEPT = pa.schema([*_USER, ("last", pa.int64()), *_EVENTS])
# A row some thousand users: `users` is their ids in Arrow's IPC format, `length` int64.
_OF_USERS = [("users", pa.binary()), ("length", pa.binary())]
_PLACES = [("first", pa.int64()), ("last", pa.int64()), ("grouped", pa.bool_())]
PIECES = pa.schema([*_PLACES, *_OF_USERS, *_EVENTS])
_TYPES = {**COLUMNS, "place": "int64"}


@dataclasses.dataclass(frozen=True)
class Round:
    """Which items are left in a round of the k-core.

    Attributes:
        before: `[N]`: which were left two rounds ago; None: a user of any length was.
        now: `[N]`: which were left one round ago.
        left: `[N]`: which are left.
        k: the least number of interactions of a user.
    """

    before: Bool[np.ndarray, " N"] | None
    now: Bool[np.ndarray, " N"]
    left: Bool[np.ndarray, " N"]
    k: int


def gather_users(
    batches: Iterable[pa.RecordBatch],
    has_times: bool = False,
    ties: str = "log",
    duplicates: str = "keep",
) -> Iterator[pa.RecordBatch]:
    """Makes one row of all interactions of a user.

    Args:
        batches: `NUMBERED`, a user's rows next to each other and in order.
        has_times: whether times are real ones.
        ties: how events of equal time stand, see `pipelines.prepare.ties`.
        duplicates: which events go, see `pipelines.prepare.duplicates`.

    Yields:
        Batches of `USERS`.

    Raises:
        ValueError: a user has more than `MAX_USER_ROWS` interactions.
    """
    # Of the last user there may be more in the next batch.
    pending: list[pl.DataFrame] = []
    rows = functools.partial(_user_rows, has_times=has_times, ties=ties, duplicates=duplicates)
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
            yield rows(pl.concat(pending), np.zeros(1, np.int64))
        last = int(starts[-1])
        if last:
            yield rows(frame[:last], starts[:-1])
        pending = [frame[last:]]
    if pending:
        yield rows(pl.concat(pending), np.zeros(1, np.int64))


def _user_rows(
    frame: pl.DataFrame,
    starts: Int[np.ndarray, " n"],
    *,
    has_times: bool,
    ties: str,
    duplicates: str,
) -> pa.RecordBatch:
    offsets = np.append(starts, len(frame)).astype(np.int64)
    users = frame["user"].gather(starts)
    values = {name: frame[name].to_numpy() for name in ("item", "time", "event", "place")}
    if ties == "shuffled":
        values = {name: column.copy() for name, column in values.items()}
        shuffle_ties(values, offsets, user_keys(users))
    exact = np.zeros(0, np.int64)
    if has_times:
        exact = exact_duplicates(values["item"], values["time"], values["event"], offsets)
    stays = kept_events(duplicates, values["item"], offsets, exact)
    num_exact = np.diff(np.searchsorted(exact, offsets))
    if stays is not None:
        values = {name: column[stays] for name, column in values.items()}
        offsets = np.concatenate([[0], np.cumsum(stays)])[offsets]
    columns = {
        "user": users.to_arrow().cast(pa.string()),
        "first": np.minimum.reduceat(values["place"], offsets[:-1]),
        "duplicates": num_exact,
        **{name: _packed(column, offsets) for name, column in values.items()},
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
        batches: `KEPT`, in order of `first`, or of `user`.

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
