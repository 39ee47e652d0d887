"""The benchmark of the two engines: what it tells, and that they must agree."""

import os
import subprocess
import sys

import polars as pl
import pytest

from launch.bench import prepare_spark

MEASURED = {"seconds": 2.0, "cpu_seconds": 3.0, "peak_gb": 0.5}


def play(monkeypatch, digest_of):
    """Measures nothing: an engine takes as many times 2 seconds as its name has letters."""
    logs = []

    def measure(engine, place, k_core, master):
        logs.append(pl.scan_parquet(f"{place}/part-*.parquet").collect().height)
        return MEASURED | {"seconds": 2.0 * len(engine), "digest": digest_of(engine)}

    monkeypatch.setattr(prepare_spark, "missing", lambda: "")
    monkeypatch.setattr(prepare_spark, "_measure", measure)
    return logs


def test_a_row_an_engine_and_size_on_the_same_log(monkeypatch, tmp_path):
    logs = play(monkeypatch, lambda engine: "same")
    rows = list(prepare_spark.run([1_000, 2_001], str(tmp_path / "new"), master="local[3]"))
    assert [row["implementation"] for row in rows] == ["polars", "spark local[3]"] * 2
    assert [row["rows"] for row in rows] == logs == [1_000, 1_000, 2_001, 2_001]
    assert [row["ratio"] for row in rows] == [None, 1.2, None, 1.2]
    assert list((tmp_path / "new").iterdir()) == []


def test_bytes_that_differ_end_the_benchmark(monkeypatch):
    play(monkeypatch, str)
    with pytest.raises(RuntimeError, match="1000 rows: Spark and Polars give different bytes"):
        list(prepare_spark.run([1_000]))


def test_without_spark_there_is_no_row_and_a_word_of_why(monkeypatch, capsys):
    monkeypatch.setattr(prepare_spark, "missing", lambda: "Spark needs Java")
    assert list(prepare_spark.run([1_000])) == []
    assert capsys.readouterr().err == "prepare_spark: Spark needs Java: no row of it\n"


def test_memory_and_time_of_a_process_and_its_children_are_seen():
    # It waits until its input ends.
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(input())'])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE) as process:
        assert process.pid in prepare_spark._family_of(os.getpid())
        assert prepare_spark._gb_of(process.pid) < prepare_spark._gb_of(os.getpid())
        assert process.stdin is not None
        process.stdin.close()
    before, clock = prepare_spark._cpu_seconds_of(os.getpid()), sum(os.times()[:4])
    assert 0.01 < before <= clock + 0.02
    assert prepare_spark._gb_of(process.pid) == prepare_spark._cpu_seconds_of(process.pid) == 0.0
