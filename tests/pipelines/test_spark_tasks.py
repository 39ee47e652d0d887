import dataclasses

import numpy as np
import polars as pl
import pytest

from pipelines.prepare.kcore import k_core

pa = pytest.importorskip("pyarrow", reason="needs the extra spark")
read_task = pytest.importorskip("pipelines.spark.read_task", reason="needs the extra spark")
tasks = pytest.importorskip("pipelines.spark.user_tasks", reason="needs the extra spark")

NUM_ITEMS = 200


@dataclasses.dataclass(frozen=True)
class Shared:
    value: object


def log_by_user(seed, num_users=60):
    """Rows as Spark sorts them: a user's next to each other, by time and place."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(num_users), random.geometric(0.1, num_users))
    size = len(user)
    frame = pl.DataFrame(
        {
            "user": [f"user {number}" for number in user],
            "item": (NUM_ITEMS * random.random(size) ** 3).astype(np.int32),
            "time": random.integers(0, 9, size),
            "event": random.integers(0, 3, size).astype(np.int32),
            "place": random.permutation(size) + read_task.PLACES,
        }
    )
    return frame.sort("user", "time", "place")


def batches_of(frame, schema, sizes):
    """Batches of such sizes, over and over; each is a view into a larger one."""
    table = frame.to_arrow().cast(schema).combine_chunks().to_batches()[0]
    start, turn = 0, 0
    while start < len(table):
        yield table.slice(start, sizes[turn % len(sizes)])
        start += sizes[turn % len(sizes)]
        turn += 1


def values(batch, name, kind):
    return [np.frombuffer(value, kind).tolist() for value in batch.column(name).to_pylist()]


@pytest.mark.parametrize("sizes", [(1,), (3, 0, 7), (100, 1), (10_000,)])
def test_a_user_is_one_row_wherever_batches_end(sizes):
    frame = log_by_user(seed=len(sizes))
    rows = [
        row
        for batch in tasks.gather_users(batches_of(frame, read_task.NUMBERED, sizes))
        for row in zip(
            batch.column("user").to_pylist(),
            batch.column("first").to_pylist(),
            values(batch, "item", np.int32),
            values(batch, "time", np.int64),
            values(batch, "event", np.int32),
            values(batch, "place", np.int64),
            strict=True,
        )
    ]
    columns = ("item", "time", "event", "place")
    expected = frame.group_by("user", maintain_order=True).agg(
        pl.col("place").min().alias("first"), *(pl.col(name).alias(f"{name}_") for name in columns)
    )
    assert rows == expected.rows()


def test_a_user_with_more_than_fits_into_a_row_is_an_error(monkeypatch):
    monkeypatch.setattr(tasks, "MAX_USER_ROWS", 20)
    frame = log_by_user(seed=0).with_columns(pl.lit("nobody").alias("user"))
    with pytest.raises(ValueError, match="user 'nobody' has more than 20 interactions"):
        list(tasks.gather_users(batches_of(frame, read_task.NUMBERED, (7,))))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_rounds_of_leaving_end_at_the_k_core(k):
    frame = log_by_user(seed=k)
    user = frame["user"].rle_id().to_numpy().astype(np.int32)
    item = frame["item"].to_numpy()
    expected = k_core(user, item, k)
    assert not expected.all()
    users = list(tasks.gather_users(batches_of(frame, read_task.NUMBERED, (50,))))
    count = np.bincount(item, minlength=NUM_ITEMS)
    before, now, rounds = None, np.ones(NUM_ITEMS, bool), 0
    while True:
        left = now & (count >= k)
        state = Shared(tasks.Round(before, now, left, k))
        halves = [tasks.count_leaving(users[part::2], state) for part in (0, 1)]
        lost = np.zeros(NUM_ITEMS, np.int64)
        for batch in (batch for half in halves for batch in half):
            lost[batch.column("item").to_numpy()] += batch.column("count").to_numpy()
        new = np.where(left, count - lost, 0)
        if new.sum() == count.sum():
            break
        before, now, count, rounds = now, left, new, rounds + 1
    assert rounds > 1
    np.testing.assert_array_equal(count, np.bincount(item[expected], minlength=NUM_ITEMS))

    new_row = np.where(left, np.cumsum(left) - 1, -1).astype(np.int32)
    kept = list(tasks.keep_left(users, Shared(new_row), k))
    found = pl.concat([pl.DataFrame(batch) for batch in kept]).sort("first")
    rows = frame.filter(pl.Series(expected))
    wanted = rows.group_by("user", maintain_order=True).agg(
        pl.col("place").min().alias("first"), pl.col("place").max().alias("last"), "item"
    )
    wanted = wanted.sort("first")
    assert found.select("user", "first", "last").rows() == wanted.drop("item").rows()
    assert [np.frombuffer(value, np.int32).tolist() for value in found["item"]] == [
        new_row[items.to_numpy()].tolist() for items in wanted["item"]
    ]
    batch = pa.Table.from_batches(kept).sort_by("first").combine_chunks().to_batches()
    (piece,) = list(tasks.pack(batch))
    assert tasks.users_of(piece.column("users")[0].as_py()).to_list() == wanted["user"].to_list()
    assert values(piece, "length", np.int64) == [wanted["item"].list.len().to_list()]
    assert piece.column("grouped").to_pylist() == [False]
