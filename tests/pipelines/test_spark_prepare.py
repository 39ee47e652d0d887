import dataclasses
import hashlib
import importlib.util
import os

import numpy as np
import polars as pl
import pytest

from pipelines import sources
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.sources.own_log import TablePart
from pipelines.spark import session
from pipelines.tables.interactions import (
    INTERACTION_SCHEMA,
    TICKS_PER_SECOND,
    FramePart,
    GivenSplit,
    RawDataset,
)
from tests.pipelines.source_layouts import LAYOUTS
from tests.pipelines.test_sources import make_items, make_rows
from tests.pipelines.test_times import START, sorted_by_hand
from tests.pipelines.time_layouts import TIME_LAYOUTS

# Small data spends its time on starting tasks and compiling queries.
SETTINGS = {
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.shuffle.partitions": "2",
}
EVENTS = {"view": 1.0, "buy": 2.0, "ping": 0.0}


@pytest.fixture(scope="module")
def engine():
    """Spark on this machine; starting it takes most of this file's time."""
    if problem := session.missing():
        pytest.skip(problem)
    from pipelines.spark.engine import SparkEngine

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        with session.spark_session("local[2]", SETTINGS):
            yield SparkEngine()


def hashes(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of_log(seed=0):
    """Some users that a 2-core keeps, a path that it eats from both ends, and single ones."""
    random = np.random.default_rng(seed)
    rows = [
        (f"u{user}", f"i{item}", int(random.integers(5)), str(random.choice(list(EVENTS))))
        for user in range(30)
        for item in random.choice(20, random.integers(2, 9))
    ]
    # Longer than the ids of a batch's other rows, and not in order of their bytes' lengths.
    for place in range(5):
        rows += [(f"Pfad-{place}-ü", f"p{place + step}", place, "view") for step in (0, 1)]
    rows += [("one, quoted", "i3", 7, "buy"), ("🎈", "i4", 7, "view"), ("z", "ß", 8, "buy")]
    return [rows[place] for place in random.permutation(len(rows))]


def write_parts(folder, rows, sizes=(40, 1, 60)):
    """The rows as CSV files of such sizes, and a last one of the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, some in enumerate(np.split(np.arange(len(rows)), np.cumsum(sizes))):
        frame = pl.DataFrame(
            [rows[place] for place in some], schema=["user", "item", "time", "event"], orient="row"
        )
        frame.write_csv(folder / f"part-{number}.csv")
    return {
        "name": "csv",
        "folder": str(folder),
        "interactions": "part-*.csv",
        "event": "event",
        "events": EVENTS,
    }


def write_catalogue(folder, items):
    pl.DataFrame({"item": items, "title": [f"Title of {item}" for item in items]}).write_csv(
        folder / "items.csv"
    )
    return {"catalogue": "items.csv", "title": "title"}


def damage(folder):
    """Puts rows with mistakes into two parts."""
    with (folder / "part-0.csv").open("a") as file:
        file.write("u1,i1,yesterday,view\nu1,i1,5,frown\nu1,nowhere,5,view\n")
    with (folder / "part-3.csv").open("a") as file:
        file.write("u2,i2,tomorrow,view\nu2,no-one-knows,5,view\nu2,i2,5,smile\n,i2,5,view\n")


def check_identical(engine, tmp_path, config):
    manifest = prepare(config, tmp_path / "in_memory")
    told = []
    assert prepare(config, tmp_path / "spark", engine=engine, progress=told.append) == manifest
    assert hashes(tmp_path / "spark") == hashes(tmp_path / "in_memory")
    assert told == [manifest["counts"]["read"]["interactions"]]
    return manifest


def test_python_lines_and_a_threshold_are_byte_identical(engine, tmp_path):
    rows = [
        {"user": user, "item": item, "time": time, "stars": place % 5}
        for place, (user, item, time, _) in enumerate(rows_of_log())
    ]
    for number, some in enumerate((rows[:50], rows[50:])):
        path = tmp_path / f"part-{number}.json"
        path.write_text("".join(f"{row!r}\n" for row in some), encoding="utf-8")
    source = {"name": "pylines", "folder": str(tmp_path), "interactions": "part-*.json"}
    source |= {"value": "stars", "min_value": 2.5}
    config = {"source": source, "k_core": 2, "split": "leave_one_out"}
    counts = check_identical(engine, tmp_path, config)["counts"]
    assert counts["read"]["below_min_value"] == sum(row["stars"] < 2.5 for row in rows)


def test_a_k_core_of_several_rounds_is_byte_identical(engine, tmp_path):
    source = write_parts(tmp_path / "log", rows_of_log())
    config = {"source": source, "k_core": 2, "split": "leave_one_out"}
    counts = check_identical(engine, tmp_path, config)["counts"]
    assert counts["read"]["left_out_ping"] > 0
    assert 0 < counts["after_k_core"]["users"] <= counts["read"]["users"] - 8
    assert 0 < counts["after_k_core"]["items"] <= counts["read"]["items"] - 7


def test_skipped_rows_of_all_parts_and_a_catalogue_are_byte_identical(engine, tmp_path):
    source = write_parts(tmp_path / "log", rows_of_log())
    # In no order, one of them twice, one that nobody touched; p0 to p5 are missing.
    items = ["never", *(f"i{number}" for number in range(19, -1, -1)), "i4", "ß"]
    source |= write_catalogue(tmp_path / "log", items)
    damage(tmp_path / "log")
    config = {"source": source, "k_core": 3, "split": "global_time", "on_bad_rows": "skip"}
    manifest = check_identical(engine, tmp_path, config)
    assert {reason: found["rows"] for reason, found in manifest["skipped"].items()} == {
        "duplicate_item": 1,
        "empty_id": 1,
        "not_a_time": 2,
        "unknown_event": 2,
        "unknown_item": 12,
    }


def test_columns_of_the_catalogue_are_carried_alike(engine, tmp_path):
    source = write_parts(tmp_path / "log", rows_of_log())
    items = [*(f"i{number}" for number in range(20)), *(f"p{number}" for number in range(6)), "ß"]
    frame = pl.DataFrame({"item": items, "price": [place / 4 for place in range(len(items))]})
    frame.with_columns(kind=pl.lit("lamp")).write_csv(tmp_path / "log" / "items.csv")
    source |= {"catalogue": "items.csv", "columns": "price,kind"}
    config = {"source": source, "k_core": 2, "split": "leave_one_out"}
    manifest = check_identical(engine, tmp_path, config)
    assert (
        manifest["schema"]["items"] | {"price": "Float64", "kind": "String"}
        == (manifest["schema"]["items"])
    )
    assert manifest["counts"]["prepared"]["items"] < len(items)


@pytest.mark.parametrize("has_catalogue", [False, True])
def test_users_of_one_interaction_are_left_out_alike(engine, tmp_path, has_catalogue):
    source = write_parts(tmp_path / "log", rows_of_log())
    if has_catalogue:
        items = [f"i{number}" for number in range(20)] + [f"p{number}" for number in range(6)]
        source |= write_catalogue(tmp_path / "log", [*items, "ß"])
    config = {"source": source, "k_core": 1, "split": "per_user_ratio", "on_bad_rows": "skip"}
    manifest = check_identical(engine, tmp_path, config)
    assert manifest["skipped"]["single_interaction"]["rows"] >= 3
    items = [manifest["counts"][stage]["items"] for stage in ("read", "prepared")]
    assert (items[0] == items[1]) == has_catalogue


def test_times_within_a_second_are_ordered_and_split_alike(engine, tmp_path):
    layout = next(layout for layout in TIME_LAYOUTS if layout.name == "csv_iso")
    random = np.random.default_rng(0)
    ticks = START + random.integers(0, 30, 60) * 10 ** random.integers(0, 9, 60)
    users = [f"u{user}" for user in random.integers(0, 4, 60)]
    items = [f"i{row:02}" for row in range(60)]
    source = layout.write(tmp_path, users, items, ticks.tolist())
    # Two parts, of which the second has the header's line of its own.
    head, *lines = (tmp_path / "log.csv").read_text().splitlines(keepends=True)
    (tmp_path / "log.csv").unlink()
    for number in (0, 1):
        (tmp_path / f"log-{number}.csv").write_text(head + "".join(lines[30 * number :][:30]))
    source["interactions"] = "log-*.csv"
    manifest = check_identical(engine, tmp_path, {"source": source, "split": "global_time"})
    prepared = Prepared.load(tmp_path / "spark")
    found = [int(prepared.raw_item_ids[item][1:]) for item in prepared.columns["item"]]
    assert found == sorted_by_hand(users, ticks)
    assert sorted(path.name for path in (tmp_path / "spark" / "columns").iterdir()) == [
        "event.npy",
        "item.npy",
        "time.npy",
    ]
    by_time = sorted(ticks.tolist())
    expected = [by_time[place] / TICKS_PER_SECOND for place in (48, 54)]
    counts = manifest["counts"]["split"]
    assert [counts["valid_time"], counts["test_time"]] == expected


def doubled(rows):
    """Every third row again, some places later."""
    return [row for place in range(len(rows)) for row in (rows[place], rows[place - place % 3])]


def test_shuffled_ties_know_neither_the_order_of_rows_nor_the_engine(engine, tmp_path):
    rows = doubled(rows_of_log())
    config = {
        "k_core": (2, 3),
        "ties": "shuffled",
        "duplicates": "drop_exact",
        "time_to": "1970-01-01T00:00:04",
        "split": "leave_one_out",
    }
    found = {}
    for name, order, how in (("a", rows, {}), ("b", sorted(rows), {"engine": engine})):
        source = write_parts(tmp_path / f"log-{name}", order)
        found[name] = prepare({"source": source, **config}, tmp_path / name, **how)
    files = [hashes(tmp_path / name) for name in ("a", "b")]
    del files[0]["manifest.json"], files[1]["manifest.json"]
    assert files[0] == files[1]
    counts, health = found["a"]["counts"], found["a"]["health"]
    assert (counts, health) == (found["b"]["counts"], found["b"]["health"])
    assert 0 < health["targets"]["test"]["tied"] < health["targets"]["test"]["views"]
    assert 0 < health["duplicates"]["read"] == health["duplicates"]["dropped"]
    assert health["times"]["after"] == counts["read"]["left_out_after_time_to"] > 0


def test_duplicates_go_and_items_alone_are_counted_alike(engine, tmp_path):
    source = write_parts(tmp_path / "log", doubled(rows_of_log()))
    config = {"source": source, "k_core": (1, 2), "duplicates": "first", "on_bad_rows": "skip"}
    manifest = check_identical(engine, tmp_path, {**config, "split": "leave_one_out"})
    assert manifest["health"]["duplicates"]["dropped"] > manifest["health"]["duplicates"]["read"]
    assert manifest["health"]["repeats"] == 0
    assert manifest["skipped"]["single_interaction"]["rows"] > 0
    sizes = [manifest["counts"][stage]["users"] for stage in ("read", "after_k_core", "prepared")]
    assert sizes[0] > sizes[1] > sizes[2]


def given(rows):
    frame = pl.DataFrame(rows, schema=INTERACTION_SCHEMA, orient="row")
    frame = frame.with_columns(pl.col("time") * TICKS_PER_SECOND)
    split = GivenSplit(np.array([[0, 2], [3, 5]]), np.array([[0, 2]]), np.array([[3, 5]]))
    return RawDataset((FramePart(frame),), None, given_split=split)


def use_raw(monkeypatch, tmp_path, raw):
    # Known by a file, so that it is not read to be known.
    (tmp_path / "input").write_bytes(b"")
    raw = dataclasses.replace(raw, inputs={"input": tmp_path / "input"})
    monkeypatch.setattr(sources, "load", lambda config, bad_rows: raw)
    return {"source": {"name": "by hand"}, "split": "as_given"}


GROUPED = [("b", "y", 9, 0), ("b", "x", 1, 0), ("b", "y", 5, 0)]
OTHER = [("a", "x", 3, 0), ("a", "z", 2, 0), ("a", "y", 2, 0)]


def test_a_given_split_keeps_the_order_of_the_log(engine, tmp_path, monkeypatch):
    config = use_raw(monkeypatch, tmp_path, given(GROUPED + OTHER))
    check_identical(engine, tmp_path, config)
    assert np.load(tmp_path / "spark" / "columns" / "time.npy").tolist() == [9, 1, 5, 3, 2, 2]


SOURCES = [layout for layout in LAYOUTS if layout.name not in ("csv", "csv_zst", "jsonl_gz")]


@pytest.mark.parametrize("layout", SOURCES, ids=[layout.name for layout in SOURCES])
def test_every_source_is_byte_identical(engine, tmp_path, layout):
    rows = make_rows()
    source = layout.write(tmp_path / "log", rows, make_items(rows))
    split = "as_given" if layout.name == "minionerec" else "leave_one_out"
    check_identical(engine, tmp_path, {"source": source, "split": split})


def test_a_generated_log_is_byte_identical(engine, tmp_path):
    source = {"name": "generated", "num_users": 40, "num_items": 200}
    check_identical(engine, tmp_path, {"source": source, "split": "per_user_ratio"})


def test_the_log_is_read_where_the_executors_are(engine, tmp_path, monkeypatch):
    def chunks(part, bad_rows):
        raise AssertionError(f"the driver reads {part.name}")

    config = {"source": LAYOUTS[0].write(tmp_path / "log", make_rows()), "split": "leave_one_out"}
    monkeypatch.setattr(TablePart, "chunks", chunks)
    with pytest.raises(AssertionError, match=r"reads log.csv"):
        prepare(config, tmp_path / "in_memory")
    prepare(config, tmp_path / "spark", engine=engine)


def test_a_real_data_set_is_byte_identical(engine, tmp_path, real_data):
    source = {
        "name": "sasrec",
        "folder": str(real_data / "amazon_beauty"),
        "interactions": "Beauty.txt",
        "attributes": "Beauty_item2attributes.json",
    }
    check_identical(engine, tmp_path, {"source": source, "k_core": 5, "split": "leave_one_out"})


def errors_of(engine, tmp_path, config):
    """What both engines raise; nothing is left behind."""
    found = []
    for arguments in ({}, {"engine": engine}):
        with pytest.raises((ValueError, OSError)) as caught:
            prepare(config, tmp_path / "out" / "prepared", **arguments)
        assert list((tmp_path / "out").iterdir()) == []
        kind = ValueError if isinstance(caught.value, ValueError) else OSError
        found.append((kind, str(caught.value)))
    return found


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("bad_row", "part-0.csv, line 42: 'time' is 'yesterday'"),
        ("unknown_item", "which the catalogue lacks"),
        ("k_core", "k_core=40 leaves nothing of"),
        ("single", "has one interaction"),
        (
            "nothing",
            "no interactions of 3 rows: there is nothing to prepare; left out: 3 not_a_time",
        ),
        ("not_grouped", "must group its interactions by user"),
        ("gone", "part-1.csv"),
    ],
)
def test_mistakes_are_told_in_the_same_words(engine, tmp_path, monkeypatch, mistake, message):
    rows = [(f"u{number}", "i", "never", "view") for number in range(3)]
    source = write_parts(tmp_path / "log", rows if mistake == "nothing" else rows_of_log(), (40, 2))
    config = {"source": source, "k_core": 2, "split": "leave_one_out"}
    if mistake == "bad_row":
        # A later part has one as well, which may be read first.
        for number in (2, 0):
            with (tmp_path / "log" / f"part-{number}.csv").open("a") as file:
                file.write("u1,i1,yesterday,view\n")
    elif mistake == "unknown_item":
        source |= write_catalogue(tmp_path / "log", [f"i{number}" for number in range(20)])
    elif mistake == "k_core":
        config["k_core"] = 40
    elif mistake == "single":
        config["k_core"] = 0
    elif mistake == "nothing":
        (tmp_path / "log" / "part-1.csv").unlink()
        (tmp_path / "log" / "part-2.csv").unlink()
        config["on_bad_rows"] = "skip"
    elif mistake == "not_grouped":
        rows = [GROUPED[0], OTHER[0], *GROUPED[1:], *OTHER[1:]]
        config = use_raw(monkeypatch, tmp_path, given(rows))
    else:
        raw = sources.load(source)
        config = use_raw(monkeypatch, tmp_path, raw)
        (tmp_path / "log" / "part-1.csv").unlink()
    in_memory, on_spark = errors_of(engine, tmp_path, config)
    assert message in in_memory[1]
    assert on_spark == in_memory


def test_what_spark_says_of_a_full_disk_and_of_data_is_told_in_plain_words(engine):
    from pyspark.errors import PySparkException

    from pipelines.spark.frames import plain_errors

    for said, kind, message in (
        ("Job aborted: java.io.IOException: No space left on device", OSError, "spark.local.dir="),
        ("Traceback\n  File x\nValueError: user 'a' has more\n\tat org", ValueError, "^user 'a'"),
    ):
        with pytest.raises(kind, match=message), plain_errors():
            raise PySparkException(said)
    with pytest.raises(PySparkException, match="lost"), plain_errors():
        raise PySparkException("executor lost")


def java_of_version(folder, line):
    (folder / "bin").mkdir(parents=True)
    java = folder / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho '{line}' >&2\n")
    java.chmod(0o755)
    return str(folder)


def test_what_is_missing_for_spark_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for version, problem in (
        ('openjdk version "17.0.15" 2025-04-15', ""),
        ('java version "1.8.0_201"', "is version 8"),
        ('openjdk version "11.0.2"', "is version 11"),
        ("no idea", "does not say its version"),
    ):
        home = java_of_version(tmp_path / str(len(os.listdir(tmp_path))), version)
        monkeypatch.setenv("JAVA_HOME", home)
        found = session.missing()
        assert found.endswith(problem)
        assert bool(found) == bool(problem)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    assert "needs Java 17 or newer" in session.missing()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(ValueError, match=r"pip install 'minirec\[spark\]'"),
        session.spark_session("local[2]", {}),
    ):
        pass
