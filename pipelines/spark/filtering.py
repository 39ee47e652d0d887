"""Which interactions stay: the k-core, or users of more than one; counted where the users are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

from pipelines.prepare.ingest import names_of
from pipelines.prepare.kcore import Ks, nothing_left
from pipelines.prepare.log_options import LogOptions
from pipelines.prepare.ordered_log import report_single_interactions
from pipelines.spark import user_tasks as tasks
from pipelines.spark.frames import broadcast, fetched, mapped
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import RawDataset

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
        duplicates: exact ones that there were.
        dropped: interactions that have gone for being duplicates.
    """

    frame: DataFrame
    items: pl.DataFrame
    item_count: Int64[np.ndarray, " N"]
    num_users: int
    most: int
    duplicates: int
    dropped: int


@dataclasses.dataclass(frozen=True)
class Left:
    """What a filter leaves.

    Attributes:
        items: `[N]`: which items.
        least: interactions with such items that a user must have.
        count: `[N]`: interactions of each item that are left.
    """

    items: Bool[np.ndarray, " N"]
    least: int
    count: Int64[np.ndarray, " N"]

    @property
    def num_rows(self) -> int:
        """How many interactions are left."""
        return int(self.count.sum())


def recounted(spark: SparkSession, users: Users) -> Users:
    """Counts the interactions of each item anew, once some have gone."""
    nothing, everything = (np.full(len(users.items), is_left) for is_left in (False, True))
    # With no item left every user leaves, with all of their interactions.
    round_ = tasks.Round(before=None, now=nothing, left=everything, k=1)
    return dataclasses.replace(users, item_count=_leaving(spark, users, round_))


def k_core(spark: SparkSession, raw: RawDataset, users: Users, ks: Ks, bad_rows: BadRows) -> Left:
    """Drops users and items in turn, see `pipelines.prepare.kcore.k_core`.

    The counts of items are here and those of users where the users are, so that a round sends
    three bytes an item out and gets back what leaves.

    Raises:
        ValueError: nothing is left.
    """
    of_users, of_items = ks
    count, num_left, rounds = users.item_count, int(users.item_count.sum()), 0
    before, now = None, np.ones(len(count), bool)
    left = now
    while num_left:
        left = now & (count >= of_items)
        round_ = tasks.Round(before, now, left, of_users)
        count = np.where(left, count - _leaving(spark, users, round_), 0)
        if int(count.sum()) == num_left:
            # An item of the catalogue that nobody has goes as well.
            return Left(left & (count > 0), max(of_users, 1), count)
        before, now, num_left, rounds = now, left, int(count.sum()), rounds + 1
    error = nothing_left(
        ks,
        rows=int(users.item_count.sum()),
        users=users.num_users,
        items=int(np.count_nonzero(users.item_count)),
        rounds=rounds,
        most_user=users.most,
        most_item=int(users.item_count.max()),
    )
    raise ValueError(f"{names_of(raw)}: {error}{bad_rows.in_words()}")


def without_single_interactions(
    spark: SparkSession,
    raw: RawDataset,
    users: Users,
    left: Left,
    options: LogOptions,
    bad_rows: BadRows,
) -> Left:
    """Drops users of one interaction, see `report_single_interactions`."""
    rows = np.where(left.items, np.int32(0), np.int32(-1))
    by = "user" if options.ties == "shuffled" else "first"
    with broadcast(spark, rows) as shared:
        of_left = mapped(users.frame, tasks.keep_left, tasks.KEPT, new_row=shared, least=1)
        is_single = f"length(item) = {ITEM_BYTES}"
        wanted = (f"count_if({is_single})", f"min_by(user, {by}) FILTER (WHERE {is_single})")
        num_users, number, user = of_left.selectExpr("count(*)", *wanted).collect()[0]
    if not number:
        return left
    report_single_interactions(raw, bad_rows, user, number, num_users)
    items = left.items
    round_ = tasks.Round(before=None, now=items, left=items, k=2)
    count = left.count - _leaving(spark, users, round_)
    if raw.items is None or options.takes_core:
        items = items & (count > 0)
    return Left(items, 2, count)


def _leaving(spark: SparkSession, users: Users, state: tasks.Round) -> Int64[np.ndarray, " N"]:
    """Returns how many interactions each item loses in a round."""
    lost = np.zeros(len(users.items), np.int64)
    with broadcast(spark, state) as shared:
        frame = mapped(users.frame.select("item"), tasks.count_leaving, tasks.COUNTS, state=shared)
        table = fetched(frame.groupBy("item").sum("count"))
    lost[table["item"].to_numpy()] = table.to_series(1).to_numpy()
    return lost
