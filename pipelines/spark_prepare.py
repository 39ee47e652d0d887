"""Orders a log on Spark, past one machine; the result is that of `order_in_memory`, bit for bit.

The executors read the log's parts, bring each user's interactions together, take the k-core and
sort. The driver holds what grows with users and items: ids, counts, offsets. The columns stream
through it into the prepared folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Bool, Int64

from pipelines import spark_tasks as tasks
from pipelines.bad_rows import BadRows
from pipelines.ingest import catalogue_of, check_catalogue, check_not_empty, check_size, names_of
from pipelines.interactions import RawDataset
from pipelines.kcore import nothing_left
from pipelines.ordered_log import (
    NOT_GROUPED,
    OrderedLog,
    Progress,
    report_single_interactions,
    sizes,
    writing,
)
from pipelines.prepared import COLUMNS
from pipelines.spark_session import spark_session

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Interactions of a partition: enough to be worth a task, few enough for a worker's memory.
_PARTITION_ROWS = 500_000
_ITEM_BYTES = 4
_SPARK_TYPES = {
    pa.string(): "string",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.binary(): "binary",
    pa.bool_(): "boolean",
}


@dataclasses.dataclass(frozen=True)
class SparkEngine:
    """Orders a log on Spark, see `pipelines.ordered_log.Engine`.

    Every executor must see the log's files under the paths that the driver has them by, and be
    able to import this project.

    Attributes:
        master: `local[N]`, a cluster's address or "", see `spark_session`.
        settings: Spark's own settings, by their names.
    """

    master: str = "local[*]"
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __call__(
        self,
        raw: RawDataset,
        bad_rows: BadRows,
        k: int,
        folder: Path,
        progress: Progress | None = None,
    ) -> OrderedLog:
        """Writes the columns and returns the log.

        Raises:
            ValueError: a mistake in the data, nothing is left of it, or Spark or Java is missing.
            OSError: a disk is full, or an executor does not see a file.
        """
        with spark_session(self.master, self.settings) as spark, _plain_errors():
            return _order(spark, raw, bad_rows, k, folder, progress)


@dataclasses.dataclass(frozen=True)
class _Users:
    """A log by user, on the executors.

    Attributes:
        frame: a row a user, columns `tasks.USERS`.
        items: the catalogue.
        item_count: `[N]`: interactions of each item.
        num_users: how many there are.
        most: interactions of the busiest.
    """

    frame: DataFrame
    items: pl.DataFrame
    item_count: Int64[np.ndarray, " N"]
    num_users: int
    most: int


@dataclasses.dataclass(frozen=True)
class _Left:
    """What a filter leaves.

    Attributes:
        items: `[N]`: which items.
        least: interactions with such items that a user must have.
        num_rows: how many interactions are left.
    """

    items: Bool[np.ndarray, " N"]
    least: int
    num_rows: int


def _order(
    spark: SparkSession,
    raw: RawDataset,
    bad_rows: BadRows,
    k: int,
    folder: Path,
    progress: Progress | None,
) -> OrderedLog:
    """Does all the steps, see `Engine`."""
    with contextlib.ExitStack() as held:
        users = _by_user(spark, raw, bad_rows, progress, held)
        num_rows = int(users.item_count.sum())
        read = sizes(users.num_users, len(users.items), num_rows)
        counts: dict[str, Any] = {"read": {**raw.counts, **bad_rows.left_out, **read}}
        left = _Left(np.ones(len(users.items), bool), 1, num_rows)
        if k > 1:
            left = _k_core(spark, raw, users, k)
        elif raw.given_split is None:
            left = _without_single_interactions(spark, raw, users, left, bad_rows)
        log = _write(spark, raw, users, left, folder, held)
        if k > 1:
            counts["after_k_core"] = log.sizes()
        log.counts = counts
        return log


def _by_user(
    spark: SparkSession,
    raw: RawDataset,
    bad_rows: BadRows,
    progress: Progress | None,
    held: contextlib.ExitStack,
) -> _Users:
    """Reads the log and brings each user's interactions together, in order."""
    catalogue = None if raw.items is None else check_catalogue(raw.items, bad_rows)
    check_not_empty(len(raw.parts), raw, bad_rows)
    with contextlib.ExitStack() as reading:
        # A given split counts rows: it would point at others if one were left out.
        may_go = raw.given_split is None
        log = tasks.Log(raw.parts, raw.event_types, bad_rows.action, may_go)
        task: dict[str, Any] = {"log": held.enter_context(_shared(spark, log))}
        task["catalogue"] = None
        if catalogue is not None:
            item_rows = tasks.ItemRows(catalogue["raw_item_id"])
            task["catalogue"] = held.enter_context(_shared(spark, item_rows))
        schema = tasks.READ_TEXT if catalogue is None else tasks.READ_NUMBER
        numbers = spark.range(0, len(raw.parts), 1, len(raw.parts))
        # Text is parsed once.
        read = reading.enter_context(_kept(_map(numbers, tasks.read, schema, **task)))
        notes = read.where("note is not null").select("note").collect()
        num_rows = _take_notes(spark, raw, [json.loads(row["note"]) for row in notes], bad_rows)
        if progress is not None:
            progress(num_rows)
        rows = read.where("note is null").drop("note")
        count = _table(rows.groupBy("item").count())
        if catalogue is None:
            count = count.sort("item")
            catalogue, item_count = catalogue_of(count["item"]), count["count"].to_numpy()
            item_rows = tasks.ItemRows(catalogue["raw_item_id"])
            shared = held.enter_context(_shared(spark, item_rows))
            rows = _map(rows, tasks.number_items, tasks.NUMBERED, catalogue=shared)
        else:
            item_count = np.zeros(len(catalogue), np.int64)
            item_count[count["item"].to_numpy()] = count["count"].to_numpy()
        # The rows of a given split are in order already.
        order = ["user", "time", "place"] if raw.given_split is None else ["user", "place"]
        rows = rows.repartition(_num_partitions(spark, num_rows), "user")
        frame = _map(rows.sortWithinPartitions(*order), tasks.gather_users, tasks.USERS)
        frame = held.enter_context(_kept(frame))
        extent = frame.selectExpr("count(*)", "max(length(item))").collect()[0]
    return _Users(frame, catalogue, item_count, extent[0], extent[1] // _ITEM_BYTES)


def _take_notes(
    spark: SparkSession, raw: RawDataset, notes: list[dict[str, Any]], bad_rows: BadRows
) -> int:
    """Takes over what the parts' bad rows were; returns how many good ones there are.

    Raises:
        ValueError, OSError: what went wrong first in the log.
    """
    num_rows = 0
    for note in sorted(notes, key=lambda note: note["part"]):
        error = note["error"]
        if error is not None and error["kind"] == "OSError":
            is_cluster = not (spark.sparkContext.master or "").startswith("local")
            hint = "; every executor must see the log's files under the same paths"
            raise OSError(error["message"] + (hint if is_cluster else ""))
        if error is not None:
            raise ValueError(error["message"])
        fields = {name: note[name] for name in ("counts", "first", "left_out")}
        bad_rows.merge([BadRows(bad_rows.action, **fields)])
        num_rows += note["rows"]
        check_size(raw.parts[note["part"]].name, num_rows)
    check_not_empty(num_rows, raw, bad_rows)
    return num_rows


def _k_core(spark: SparkSession, raw: RawDataset, users: _Users, k: int) -> _Left:
    """Drops users and items in turn, see `pipelines.kcore.k_core`.

    The counts of items are here and those of users where the users are, so that a round sends one
    bit an item out and gets back what leaves.

    Raises:
        ValueError: nothing is left.
    """
    count, num_left, rounds = users.item_count, int(users.item_count.sum()), 0
    before, now = None, np.ones(len(count), bool)
    left = now
    while num_left:
        left = now & (count >= k)
        count = np.where(left, count - _leaving(spark, users, tasks.Round(before, now, left, k)), 0)
        if int(count.sum()) == num_left:
            return _Left(left, k, num_left)
        before, now, num_left, rounds = now, left, int(count.sum()), rounds + 1
    error = nothing_left(
        k,
        rows=int(users.item_count.sum()),
        users=users.num_users,
        items=int(np.count_nonzero(users.item_count)),
        rounds=rounds,
        most_user=users.most,
        most_item=int(users.item_count.max()),
    )
    raise ValueError(f"{names_of(raw)}: {error}")


def _leaving(spark: SparkSession, users: _Users, state: tasks.Round) -> Int64[np.ndarray, " N"]:
    """Returns how many interactions each item loses in a round."""
    lost = np.zeros(len(users.items), np.int64)
    with _shared(spark, state) as shared:
        frame = _map(users.frame.select("item"), tasks.count_leaving, tasks.COUNTS, state=shared)
        table = _table(frame.groupBy("item").sum("count"))
    lost[table["item"].to_numpy()] = table.to_series(1).to_numpy()
    return lost


def _without_single_interactions(
    spark: SparkSession, raw: RawDataset, users: _Users, left: _Left, bad_rows: BadRows
) -> _Left:
    """Drops users of one interaction, see `report_single_interactions`."""
    single = users.frame.where(f"length(item) = {_ITEM_BYTES}")
    number, user = single.selectExpr("count(*)", "min_by(user, first)").collect()[0]
    if not number:
        return left
    report_single_interactions(raw, bad_rows, user, number, users.num_users)
    items = left.items
    if raw.items is None:
        round_ = tasks.Round(before=None, now=items, left=items, k=2)
        items = users.item_count > _leaving(spark, users, round_)
    return _Left(items, 2, left.num_rows - number)


def _write(
    spark: SparkSession,
    raw: RawDataset,
    users: _Users,
    left: _Left,
    folder: Path,
    held: contextlib.ExitStack,
) -> OrderedLog:
    """Orders users by their first interaction that is left, and writes the columns."""
    new_row = np.where(left.items, np.cumsum(left.items) - 1, -1).astype(np.int32)
    shared = held.enter_context(_shared(spark, new_row))
    kept = _map(users.frame, tasks.keep_left, tasks.KEPT, new_row=shared, least=left.least)
    kept = kept.repartitionByRange(_num_partitions(spark, left.num_rows), "first")
    pieces = _map(kept.sortWithinPartitions("first"), tasks.pack, tasks.PIECES)
    pieces = held.enter_context(_kept(pieces))
    # All at once: they are fetched one partition after the other.
    pieces.count()
    names: list[pl.Series] = []
    lengths: list[Int64[np.ndarray, " n"]] = []
    (folder / "columns").mkdir()
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(_column_writer(folder, name, left.num_rows))
            for name in COLUMNS
        }
        last = -1
        for piece in pieces.toLocalIterator(prefetchPartitions=True):
            if raw.given_split is not None and (not piece["grouped"] or piece["first"] <= last):
                raise ValueError(NOT_GROUPED)
            last = piece["last"]
            names.append(tasks.users_of(piece["users"]))
            lengths.append(np.frombuffer(piece["length"], np.int64))
            for name, write in writers.items():
                write(piece[name])
    columns = {name: np.load(folder / "columns" / f"{name}.npy", mmap_mode="r") for name in COLUMNS}
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    if offsets[-1] != left.num_rows:
        raise RuntimeError(f"Spark gave {offsets[-1]} interactions of {left.num_rows}")
    items = users.items.filter(pl.Series(left.items))
    return OrderedLog(columns, offsets, pl.concat(names), items, {})


@contextlib.contextmanager
def _column_writer(folder: Path, name: str, size: int) -> Generator[Callable[[bytes], None]]:
    """Yields what appends values to a column's file; the file is what `np.save` would write."""
    header = {"descr": np.dtype(COLUMNS[name]).str, "fortran_order": False, "shape": (size,)}
    what = f"columns/{name}.npy"
    with writing(what):
        file = (folder / what).open("wb")

    def write(values: bytes) -> None:
        with writing(what):
            file.write(values)

    try:
        with writing(what):
            np.lib.format.write_array_header_1_0(file, header)
        yield write
    finally:
        with writing(what):
            file.close()


def _num_partitions(spark: SparkSession, num_rows: int) -> int:
    return max(spark.sparkContext.defaultParallelism, -(-num_rows // _PARTITION_ROWS))


def _map(
    frame: DataFrame,
    task: Callable[..., Iterator[pa.RecordBatch]],
    schema: pa.Schema,
    **arguments: Any,
) -> DataFrame:
    """Applies one of `spark_tasks` to every partition."""
    columns = ", ".join(f"{field.name} {_SPARK_TYPES[field.type]}" for field in schema)
    return frame.mapInArrow(functools.partial(task, **arguments), columns)


def _table(frame: DataFrame) -> pl.DataFrame:
    """Fetches a small frame."""
    return pl.DataFrame(frame.toArrow())


@contextlib.contextmanager
def _kept(frame: DataFrame) -> Generator[DataFrame]:
    """Keeps what the frame holds, once it was made, in the executors' memory or on their disks."""
    frame = frame.persist()
    try:
        yield frame
    finally:
        frame.unpersist()


@contextlib.contextmanager
def _shared(spark: SparkSession, value: Any) -> Generator[tasks.Shared[Any]]:
    """Sends a value to every executor."""
    broadcast = spark.sparkContext.broadcast(value)
    try:
        yield broadcast
    finally:
        broadcast.destroy()


@contextlib.contextmanager
def _plain_errors() -> Generator[None]:
    """Turns what Spark says of errors that a person can mend into what they are.

    Raises:
        ValueError: a task raised one.
        OSError: a disk that Spark writes to is full.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        text = str(error)
        if "No space left on device" in text:
            raise OSError(
                "the disk that Spark keeps its own files on is full; name a larger one with "
                "--spark_conf=spark.local.dir=FOLDER"
            ) from error
        found = re.search(r"^(?:.*: )?ValueError: (.+)$", text, re.MULTILINE)
        if found is None:
            raise
        raise ValueError(found[1]) from error
