"""The few things that the driver asks of Spark: frames of Arrow batches and shared values."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from pipelines.spark.read_task import Shared

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Interactions of a partition: enough to be worth a task, few enough for a worker's memory.
_PARTITION_ROWS = 500_000
_SPARK_TYPES = {
    pa.string(): "string",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.binary(): "binary",
    pa.bool_(): "boolean",
}


def num_partitions(spark: SparkSession, num_rows: int) -> int:
    """Returns into how many partitions so many interactions go."""
    return max(spark.sparkContext.defaultParallelism, -(-num_rows // _PARTITION_ROWS))


def mapped(
    frame: DataFrame,
    task: Callable[..., Iterator[pa.RecordBatch]],
    schema: pa.Schema,
    **arguments: Any,
) -> DataFrame:
    """Applies a task to every partition.

    Args:
        frame: its batches are the task's first argument.
        task: takes batches and yields others.
        schema: of the batches that the task yields.
        arguments: the task's others; they are sent along.
    """
    columns = ", ".join(f"{field.name} {_SPARK_TYPES[field.type]}" for field in schema)
    return frame.mapInArrow(functools.partial(task, **arguments), columns)


def fetched(frame: DataFrame) -> pl.DataFrame:
    """Fetches a small frame."""
    return pl.DataFrame(frame.toArrow())


@contextlib.contextmanager
def kept(frame: DataFrame) -> Generator[DataFrame]:
    """Keeps what the frame holds, once it was made, in the executors' memory or on their disks."""
    frame = frame.persist()
    try:
        yield frame
    finally:
        frame.unpersist()


@contextlib.contextmanager
def broadcast(spark: SparkSession, value: Any) -> Generator[Shared[Any]]:
    """Sends a value to every executor."""
    everywhere = spark.sparkContext.broadcast(value)
    try:
        yield everywhere
    finally:
        everywhere.destroy()


@contextlib.contextmanager
def plain_errors() -> Generator[None]:
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
