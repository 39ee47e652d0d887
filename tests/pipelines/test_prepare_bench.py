"""The benchmark of prepare: the log that it makes, and that pandas comes to the same result."""

import importlib.util

import polars as pl
import pytest

from launch.bench import prepare


def test_a_log_is_in_order_of_time_and_the_same_each_time(tmp_path):
    for name in ("a.csv", "b.csv"):
        prepare.write_log(tmp_path / name, 2_000)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    log = pl.read_csv(tmp_path / "a.csv")
    assert log.columns == ["user", "item", "time", "event"]
    assert log["time"].is_sorted()
    assert set(log["event"]) == set(prepare.EVENTS)
    count = log["user"].value_counts()["count"]
    assert count.max() > 3 * count.mean()


def test_rows_tell_rate_memory_and_floor_and_pandas_agrees(tmp_path):
    rows = list(prepare.run(3_000, 2_000, str(tmp_path), k_core=2))
    ours = [row for row in rows if row["implementation"] == "minirec"]
    assert [(row["case"], row["rows"]) for row in ours] == [("csv", 3_000), ("parquet", 2_000)]
    for row in rows:
        assert 0 < row["rows_left"] <= row["rows"]
        assert row["rows_per_second"] > 0
        assert 0.01 < row["peak_gb"] < 2
    if importlib.util.find_spec("pandas") is None:
        pytest.skip("pandas (extra `bench`) is not installed")
    assert rows[0]["implementation"] == "pandas"
    assert rows[0]["rows_left"] == ours[0]["rows_left"]


def test_a_result_that_differs_ends_the_benchmark(tmp_path, monkeypatch):
    def measure(program, *args):
        return {"seconds": 1.0, "peak_gb": 1.0, "rows": 1, "digest": program}

    monkeypatch.setattr(prepare, "_measure", measure)
    monkeypatch.setattr(prepare, "_has_pandas", lambda: True)
    with pytest.raises(RuntimeError, match="pandas prepares pandas"):
        list(prepare.run(100, 0, str(tmp_path)))
