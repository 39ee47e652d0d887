"""Which interactions stay: the k-core, or users of more than one; counted where the users are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

from pipelines.bad_rows import BadRows
from pipelines.ingest import names_of
from pipelines.interactions import RawDataset
from pipelines.kcore import nothing_left
from pipelines.ordered_log import report_single_interactions
from pipelines.spark import user_tasks as tasks
from pipelines.spark.frames import broadcast, fetched, mapped

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ITEM_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Users:
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
class Left:
    """What a filter leaves.

    Attributes:
        items: `[N]`: which items.
        least: interactions with such items that a user must have.
        num_rows: how many interactions are left.
    """

    items: Bool[np.ndarray, " N"]
    least: int
    num_rows: int


def k_core(spark: SparkSession, raw: RawDataset, users: Users, k: int, bad_rows: BadRows) -> Left:
    """Drops users and items in turn, see `pipelines.kcore.k_core`.

    The counts of items are here and those of users where the users are, so that a round sends
    three bytes an item out and gets back what leaves.

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
            return Left(left, k, num_left)
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
    raise ValueError(f"{names_of(raw)}: {error}{bad_rows.in_words()}")


def without_single_interactions(
    spark: SparkSession, raw: RawDataset, users: Users, left: Left, bad_rows: BadRows
) -> Left:
    """Drops users of one interaction, see `report_single_interactions`."""
    single = users.frame.where(f"length(item) = {ITEM_BYTES}")
    number, user = single.selectExpr("count(*)", "min_by(user, first)").collect()[0]
    if not number:
        return left
    report_single_interactions(raw, bad_rows, user, number, users.num_users)
    items = left.items
    if raw.items is None:
        round_ = tasks.Round(before=None, now=items, left=items, k=2)
        items = users.item_count > _leaving(spark, users, round_)
    return Left(items, 2, left.num_rows - number)


def _leaving(spark: SparkSession, users: Users, state: tasks.Round) -> Int64[np.ndarray, " N"]:
    """Returns how many interactions each item loses in a round."""
    lost = np.zeros(len(users.items), np.int64)
    with broadcast(spark, state) as shared:
        frame = mapped(users.frame.select("item"), tasks.count_leaving, tasks.COUNTS, state=shared)
        table = fetched(frame.groupBy("item").sum("count"))
    lost[table["item"].to_numpy()] = table.to_series(1).to_numpy()
    return lost
