"""Orders a log on Spark, past one machine; the result is that of `order_in_memory`, bit for bit.

The executors read the log's parts, bring each user's interactions together, take the k-core and
sort. The driver holds what grows with users and items: ids, counts, offsets. The columns stream
through it into the prepared folder, and are mapped from there when `pipelines.prepare.prepare`
splits them, which takes one byte an interaction for the training counts and nine for a split by
global time. Sources that put their log together themselves (`FramePart`) hold it on the driver.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.prepare.ingest import (
    catalogue_of,
    check_catalogue,
    check_not_empty,
    check_size,
    sizes,
)
from pipelines.prepare.log_options import LogOptions
from pipelines.prepare.log_times import LogTimes, outside_window
from pipelines.prepare.ordered_log import OrderedLog, Progress, may_leave_single_interactions
from pipelines.spark import read_task, user_tasks
from pipelines.spark.columns import write_columns
from pipelines.spark.filtering import (
    ITEM_BYTES,
    Left,
    Users,
    k_core,
    recounted,
    without_single_interactions,
)
from pipelines.spark.frames import (
    broadcast,
    fetched,
    kept,
    mapped,
    num_partitions,
    plain_errors,
)
from pipelines.spark.session import spark_session
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import RawDataset

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclasses.dataclass(frozen=True)
class SparkEngine:
    """Orders a log on Spark, see `pipelines.prepare.ordered_log.Engine`.

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
        options: LogOptions,
        folder: Path,
        progress: Progress | None = None,
    ) -> OrderedLog:
        """Writes the columns and returns the log.

        Raises:
            ValueError: a mistake in the data, nothing is left of it, or Spark or Java is missing.
            OSError: a disk is full, or an executor does not see a file.
        """
        with spark_session(self.master, self.settings) as spark, plain_errors():
            return _order(spark, raw, bad_rows, options, folder, progress)


def _order(
    spark: SparkSession,
    raw: RawDataset,
    bad_rows: BadRows,
    options: LogOptions,
    folder: Path,
    progress: Progress | None,
) -> OrderedLog:
    """Does all the steps, see `Engine`."""
    with contextlib.ExitStack() as held:
        times = LogTimes()
        users = _by_user(spark, raw, bad_rows, options, times, progress, held)
        num_items, num_rows = len(users.items), int(users.item_count.sum())
        read = sizes(users.num_users, num_items, num_rows + users.dropped)
        counts: dict[str, Any] = {"read": {**raw.counts, **bad_rows.left_out, **read}}
        if options.duplicates != "keep":
            counts["after_duplicates"] = sizes(users.num_users, num_items, num_rows)
        left = Left(np.ones(num_items, bool), 1, users.item_count)
        if options.takes_core:
            left = k_core(spark, raw, users, options.k_core, bad_rows)
        cored = left
        if may_leave_single_interactions(raw, options):
            left = without_single_interactions(spark, raw, users, left, options, bad_rows)
        by_id = options.ties == "shuffled"
        log = write_columns(spark, raw, users, left, folder, held, by_id=by_id)
        log.counts = counts
        if options.takes_core:
            single = cored.num_rows - left.num_rows
            num_items = int(np.count_nonzero(cored.items))
            counts["after_k_core"] = sizes(len(log.users) + single, num_items, cored.num_rows)
        if raw.has_times:
            log.times = {**times.report(), **outside_window(bad_rows)}
        log.duplicates = {
            "read": users.duplicates if raw.has_times else None,
            "dropped": users.dropped,
        }
        return log


def _by_user(
    spark: SparkSession,
    raw: RawDataset,
    bad_rows: BadRows,
    options: LogOptions,
    times: LogTimes,
    progress: Progress | None,
    held: contextlib.ExitStack,
) -> Users:
    """Reads the log and brings each user's interactions together, in order, without duplicates."""
    catalogue = check_catalogue(raw, bad_rows)
    check_not_empty(len(raw.parts), raw, bad_rows)
    with contextlib.ExitStack() as reading:
        # A given split counts rows: it would point at others if one were left out.
        may_go = raw.given_split is None
        log = read_task.Log(raw.parts, raw.event_types, bad_rows.action, may_go, options)
        task: dict[str, Any] = {"log": held.enter_context(broadcast(spark, log)), "catalogue": None}
        if catalogue is not None:
            item_rows = read_task.ItemRows(catalogue["raw_item_id"])
            task["catalogue"] = held.enter_context(broadcast(spark, item_rows))
        schema = read_task.READ_TEXT if catalogue is None else read_task.READ_NUMBER
        numbers = spark.range(0, len(raw.parts), 1, len(raw.parts))
        # Text is parsed once.
        read = reading.enter_context(kept(mapped(numbers, read_task.read, schema, **task)))
        notes = read.where("note is not null").select("note").collect()
        told = [json.loads(row["note"]) for row in notes]
        num_rows = _take_notes(spark, raw, told, bad_rows)
        for note in told:
            times.merge(note["times"])
        if progress is not None:
            progress(num_rows)
        rows = read.where("note is null").drop("note")
        count = fetched(rows.groupBy("item").count())
        if catalogue is None:
            count = count.sort("item")
            catalogue, item_count = catalogue_of(count["item"]), count["count"].to_numpy()
            item_rows = read_task.ItemRows(catalogue["raw_item_id"])
            shared = held.enter_context(broadcast(spark, item_rows))
            rows = mapped(rows, read_task.number_items, read_task.NUMBERED, catalogue=shared)
        else:
            item_count = np.zeros(len(catalogue), np.int64)
            item_count[count["item"].to_numpy()] = count["count"].to_numpy()
        # The rows of a given split are in order already.
        order = ["user", "time", "place"] if raw.given_split is None else ["user", "place"]
        rows = rows.repartition(num_partitions(spark, num_rows), "user")
        frame = mapped(
            rows.sortWithinPartitions(*order),
            user_tasks.gather_users,
            user_tasks.USERS,
            has_times=raw.has_times,
            ties=options.ties,
            duplicates=options.duplicates,
        )
        frame = held.enter_context(kept(frame))
        wanted = ("count(*)", "max(length(item))", "sum(length(item))", "sum(duplicates)")
        num_users, longest, size, duplicates = frame.selectExpr(*wanted).collect()[0]
    dropped = num_rows - size // ITEM_BYTES
    users = Users(
        frame, catalogue, item_count, num_users, longest // ITEM_BYTES, duplicates, dropped
    )
    return users if not dropped else recounted(spark, users)


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
