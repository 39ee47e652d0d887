"""The prepared folder's columns, streamed from the executors through the driver."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from jaxtyping import Int64

from minirec import files
from pipelines.prepare.ordered_log import NOT_GROUPED, OrderedLog, writing
from pipelines.prepared_files import COLUMNS
from pipelines.spark import user_tasks as tasks
from pipelines.spark.filtering import Left, Users
from pipelines.spark.frames import broadcast, kept, mapped, num_partitions
from pipelines.tables.interactions import TICKS_PER_SECOND, RawDataset

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def write_columns(
    spark: SparkSession,
    raw: RawDataset,
    users: Users,
    left: Left,
    folder: Path,
    held: contextlib.ExitStack,
    *,
    by_id: bool = False,
) -> OrderedLog:
    """Orders users by their first interaction that is left, or by id, and writes the columns."""
    new_row = np.where(left.items, np.cumsum(left.items) - 1, -1).astype(np.int32)
    shared = held.enter_context(broadcast(spark, new_row))
    stay = mapped(users.frame, tasks.keep_left, tasks.KEPT, new_row=shared, least=left.least)
    order = "user" if by_id else "first"
    stay = stay.repartitionByRange(num_partitions(spark, left.num_rows), order)
    pieces = mapped(stay.sortWithinPartitions(order), tasks.pack, tasks.PIECES)
    pieces = held.enter_context(kept(pieces))
    # All at once: they are fetched one partition after the other.
    pieces.count()
    names: list[pl.Series] = []
    lengths: list[Int64[np.ndarray, " n"]] = []
    (folder / "columns").mkdir()
    with contextlib.ExitStack() as stack:
        # Without a name, so that it goes when nothing maps it any more.
        ticks_file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
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
            with writing("a temporary file beside columns/time.npy"):
                ticks_file.write(piece["time"])
            seconds = np.frombuffer(piece["time"], np.int64) // TICKS_PER_SECOND
            for name, write in writers.items():
                write(seconds.tobytes() if name == "time" else piece[name])
        with writing("a temporary file beside columns/time.npy"):
            ticks_file.flush()
        ticks = np.memmap(ticks_file, np.int64, "r")
    columns = {
        name: files.read_npy(folder / "columns" / f"{name}.npy", kind, mapped=True)
        for name, kind in COLUMNS.items()
    }
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    if offsets[-1] != left.num_rows:
        raise RuntimeError(f"Spark gave {offsets[-1]} interactions of {left.num_rows}")
    items = users.items.filter(pl.Series(left.items))
    return OrderedLog(columns, ticks, offsets, pl.concat(names), items, {}, None, {})


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
