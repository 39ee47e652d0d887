"""What stands in Parquet and SQLite files, and how the fields of a config reach a source."""

import dataclasses
import datetime
import hashlib
import importlib
import shutil
import sqlite3
import sys
from fractions import Fraction

import polars as pl
import pytest
from absl import flags
from ml_collections import config_flags

from launch.wiring import program
from pipelines import sources
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.sources.own_log import LogConfig
from pipelines.tables.bad_rows import BadRows
from tests.pipelines.source_layouts import seconds

OWN_LOGS = ["csv", "parquet", "jsonl", "pylines", "sqlite", "recbole", "retailrocket"]
MOMENT = datetime.datetime(2017, 7, 14, 2, 40, 0, 999_000)


def read(folder, action="skip", name="parquet", **fields):
    log = {"parquet": "log.parquet", "sqlite": "log.db"}[name]
    config = {"name": name, "folder": str(folder), "interactions": log, **fields}
    bad_rows = BadRows(action)
    raw = sources.load(config, bad_rows)
    chunks = [chunk for part in raw.parts for chunk in part.chunks(bad_rows)]
    rows = [row for c in chunks for row in c.select("user", "item", "time", "line").rows()]
    return [(user, item, seconds(time), line) for user, item, time, line in rows], bad_rows.counts


def write(folder, **columns):
    frame = pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "time": [1, 2]} | columns)
    frame.write_parquet(folder / "log.parquet")


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([MOMENT] * 2, dtype=pl.Datetime("ms")),
        pl.Series([MOMENT] * 2, dtype=pl.Datetime("us")),
        pl.Series([MOMENT] * 2, dtype=pl.Datetime("ns")),
        pl.Series([MOMENT + datetime.timedelta(hours=2)] * 2).dt.replace_time_zone("Europe/Oslo"),
        pl.Series([1_500_000_000.999] * 2, dtype=pl.Float64),
        pl.Series(["1500000000.999"] * 2),
        pl.Series(["1500000000.999"] * 2).cast(pl.Decimal(20, 3)),
    ],
    ids=lambda times: str(times.dtype),
)
def test_times_of_every_type_keep_all_they_say(tmp_path, times):
    write(tmp_path, time=times)
    assert [row[2] for row in read(tmp_path, "error")[0]] == [Fraction("1500000000.999")] * 2


@pytest.mark.parametrize("dtype", [pl.Int32, pl.UInt64, pl.Float64, pl.Float32, pl.String], ids=str)
def test_whole_numbers_of_every_type_are_times(tmp_path, dtype):
    write(tmp_path, time=pl.Series([1_500_000_000, 128]).cast(dtype))
    assert [row[2] for row in read(tmp_path, "error")[0]] == [1_500_000_000, 128]


def test_dates_are_their_beginning_and_wrong_times_are_bad_rows(tmp_path):
    write(tmp_path, time=[datetime.date(2017, 7, 14), None])
    rows, counts = read(tmp_path)
    assert rows == [("a", "x", 1_499_990_400, 1)]
    assert counts == {"not_a_time": 1}
    write(tmp_path, time=[float("nan"), float("inf")])
    assert read(tmp_path) == ([], {"not_a_time": 2})
    write(tmp_path, time=[datetime.datetime(1969, 12, 31), datetime.datetime(2101, 1, 1)])
    assert read(tmp_path) == ([], {"negative_time": 1, "time_after_2100": 1})
    write(tmp_path, time=pl.Series([2**64 - 1, 5], dtype=pl.UInt64))
    assert read(tmp_path) == ([("b", "y", 5, 2)], {"time_after_2100": 1})


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        (pl.Series([-1, 2**62], dtype=pl.Int64), [-1, 2**62]),
        (pl.Series([0, 2**63], dtype=pl.UInt64), ["0", str(2**63)]),
        (pl.Series([3, 200], dtype=pl.UInt8), [3, 200]),
        (pl.Series(["q", "r"], dtype=pl.Categorical), ["q", "r"]),
        (pl.Series([b"q", "é".encode()]), ["q", "é"]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_whole_numbers_and_text_of_every_type_are_ids(tmp_path, users, expected):
    write(tmp_path, user=users)
    assert [row[0] for row in read(tmp_path, "error")[0]] == expected


def test_missing_ids_and_broken_text_are_bad_rows(tmp_path):
    write(tmp_path, user=[None, 7])
    assert read(tmp_path) == ([(7, "y", 2, 2)], {"empty_id": 1})
    with pytest.raises(ValueError, match=r"log.parquet, row 1: 'user' is missing"):
        read(tmp_path, "error")
    write(tmp_path, item=[b"\xff", b"y"])
    assert read(tmp_path) == ([("b", "y", 2, 2)], {"not_utf8": 1})


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"user": [1.0, 2.0]}, "'user' is of type Float64; .* a rounded id may be another one"),
        ({"item": [True, False]}, "'item' is of type Boolean; it must hold whole numbers or text"),
        ({"item": [["a"], ["b"]]}, r"'item' is of type List\(String\)"),
        ({"time": [True, False]}, "'time' is of type Boolean; it must hold numbers, dates"),
        ({"time": [datetime.time(1)] * 2}, "'time' is of type Time"),
    ],
)
def test_a_column_of_a_wrong_type_is_an_error(tmp_path, column, message):
    write(tmp_path, **column)
    with pytest.raises(ValueError, match=rf"log.parquet: column {message}"):
        read(tmp_path)


def test_a_parquet_file_that_is_cut_off_is_an_error(tmp_path, capfd):
    write(tmp_path)
    data = (tmp_path / "log.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"log.parquet: not a whole Parquet file .* cut off"):
        read(tmp_path)
    zeros = bytes(min(60, len(data) // 3))
    (tmp_path / "log.parquet").write_bytes(data[:4] + zeros + data[4 + len(zeros) :])
    with pytest.raises(ValueError, match=r"log.parquet: the file is damaged: rows after row 0"):
        read(tmp_path)
    capfd.readouterr()  # the reader's own words


@pytest.fixture
def database(tmp_path):
    """A file with a log of some types in it; its connection is open."""
    connection = sqlite3.connect(tmp_path / "log.db")
    connection.execute("CREATE TABLE log (user, item, time)")
    rows = [("a", 2**62, 1), ("b", "x", 2.9), ("c", "y", "3")]
    connection.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)
    connection.commit()
    yield connection
    connection.close()


def stamps(folder):
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.iterdir()
    }


EXPECTED = [("a", str(2**62), 1, 1), ("b", "x", Fraction("2.9"), 2), ("c", "y", 3, 3)]


def test_sqlite_tables_views_and_queries(tmp_path, database):
    database.execute('CREATE VIEW "last ""one""" AS SELECT * FROM log WHERE user != \'a\'')
    database.commit()
    assert read(tmp_path, "error", "sqlite", table="log") == (EXPECTED, {})
    assert read(tmp_path, "error", "sqlite", table="LOG")[0] == EXPECTED
    assert len(read(tmp_path, "error", "sqlite", table='last "one"')[0]) == 2
    query = "SELECT item AS user, user AS item, time FROM log ORDER BY time DESC"
    found = read(tmp_path, "error", "sqlite", query=query)[0]
    assert [row[:3] for row in found] == [
        ("y", "c", 3),
        ("x", "b", Fraction("2.9")),
        (str(2**62), "a", 1),
    ]


def test_mistakes_in_sqlite_files(tmp_path, database):
    database.execute("INSERT INTO log VALUES (x'00ff', 'x', 4), (1.5, 'x', 5), (NULL, 'x', 6)")
    database.execute("INSERT INTO log VALUES (CAST(x'ff41' AS TEXT), 'x', 7), ('d', 'x', 8)")
    database.commit()
    rows, counts = read(tmp_path, "skip", "sqlite", table="log")
    assert rows == [*EXPECTED, ("d", "x", 8, 8)]
    assert counts == {"wrong_type": 2, "empty_id": 1, "not_unicode": 1}
    with pytest.raises(ValueError, match=r"log.db, row 4: 'user' is b'.*'; it must be a text"):
        read(tmp_path, "error", "sqlite", table="log")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "table is '' and query ''; name one of them"),
        ({"table": "log", "query": "SELECT 1"}, "name one of them"),
        ({"table": "logs"}, "there is no table 'logs'; it has 'log'"),
        ({"table": "log", "user": "who"}, "no column 'who'.* it has 'user', 'item', 'time'"),
        ({"query": "SELECT * FROM logs"}, "no such table: logs"),
        ({"query": "DELETE FROM log"}, "source.query 'DELETE FROM log' asks for more than to read"),
        ({"query": "CREATE TABLE x (y)"}, "more than to read"),
        ({"query": "CREATE TEMP TABLE x (y)"}, "more than to read"),
        ({"query": "INSERT INTO log VALUES (1, 2, 3) RETURNING *"}, "more than to read"),
        ({"query": "UPDATE sqlite_master SET sql = ''"}, "may not be modified"),
        ({"query": "PRAGMA user_version = 3"}, "more than to read"),
        ({"query": "PRAGMA writable_schema = ON"}, "more than to read"),
        ({"query": "ATTACH 'FOLDER/other.db' AS other"}, "more than to read"),
        ({"query": "VACUUM INTO 'FOLDER/other.db'"}, "more than to read"),
        ({"query": "SELECT load_extension('FOLDER/x') FROM log"}, "more than to read"),
        ({"query": "BEGIN"}, "more than to read"),
        ({"table": "log", "catalogue_query": "ATTACH '' AS x"}, "source.catalogue_query .ATTACH"),
        ({"query": "SELECT 1; DROP TABLE log"}, "one statement"),
        ({"query": "SELECT 1\0"}, "null character"),
        ({"query": "SELECT '\ud800'"}, "source.query .* surrogates not allowed"),
        ({"query": "-- nothing"}, "source.query '-- nothing' gives no rows; use a SELECT"),
        (
            {"query": "SELECT hex(zeroblob(9000000)) AS user, 1 AS item, 2 AS time"},
            "row 1 .* 16 MiB",
        ),
        ({"table": "log", "catalogue": "a", "catalogue_table": "b"}, "name one catalogue"),
    ],
)
def test_sqlite_is_only_read(tmp_path, database, fields, message):
    before = stamps(tmp_path)
    fields = {name: value.replace("FOLDER", str(tmp_path)) for name, value in fields.items()}
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "error", "sqlite", **fields)
    assert stamps(tmp_path) == before


def test_queries_may_use_what_only_reads(tmp_path, database):
    database.execute("CREATE VIRTUAL TABLE words USING fts5(word)")
    database.execute("INSERT INTO words VALUES ('a'), ('b')")
    database.commit()
    for query in (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2) "
        "SELECT x AS user, 'i' AS item, x AS time FROM n",
        "SELECT value AS user, 'i' AS item, value AS time FROM json_each('[1, 2]')",
        "SELECT rowid AS user, 'i' AS item, rowid AS time FROM words WHERE words MATCH 'a OR b'",
        "SELECT row_number() OVER (ORDER BY time) AS user, 'i' AS item, 1 + (user = 'b') AS time "
        "FROM log WHERE user < 'c'",
    ):
        rows, _ = read(tmp_path, "error", "sqlite", query=query)
        assert [(row[0], row[2]) for row in rows] == [(1, 1), (2, 2)]


def test_a_picture_beside_the_log_is_never_read(tmp_path, database):
    database.execute("ALTER TABLE log ADD COLUMN picture")
    database.execute("UPDATE log SET picture = zeroblob(17000000) WHERE user = 'a'")
    database.commit()
    assert read(tmp_path, "error", "sqlite", table="log") == (EXPECTED, {})


@pytest.mark.parametrize("is_live", [True, False])
def test_changes_in_the_write_ahead_log_are_read_and_nothing_is_written(
    tmp_path, database, is_live
):
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("INSERT INTO log VALUES ('d', 'z', 4)")
    database.commit()
    folder = tmp_path
    if not is_live:
        folder = tmp_path / "copy"
        folder.mkdir()
        for name in ("log.db", "log.db-wal"):
            shutil.copy(tmp_path / name, folder / name)
    before = stamps(folder) if not is_live else None
    rows, _ = read(folder, "error", "sqlite", table="log")
    assert rows == [*EXPECTED, ("d", "z", 4, 4)]
    config = {"name": "sqlite", "folder": str(folder), "interactions": "log.db", "table": "log"}
    assert sorted(sources.load(config).inputs) == ["log.db", "log.db-wal"]
    if before is not None:
        assert stamps(folder) == before


def test_a_file_in_wal_mode_that_nobody_writes_is_left_alone(tmp_path, database):
    database.execute("PRAGMA journal_mode = WAL")
    database.close()
    before = stamps(tmp_path)
    assert set(before) == {"log.db"}
    assert read(tmp_path, "error", "sqlite", table="log")[0] == EXPECTED
    assert stamps(tmp_path) == before


def test_an_sqlite_file_that_is_cut_off_is_an_error(tmp_path, database):
    database.executemany("INSERT INTO log VALUES (?, 'x', 1)", [(f"u{at}",) for at in range(2000)])
    database.commit()
    data = (tmp_path / "log.db").read_bytes()
    for size in (10, 100, len(data) // 2, len(data) - 4096):
        (tmp_path / "log.db").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"log.db: not a whole SQLite file"):
            read(tmp_path, "skip", "sqlite", table="log")
    assert len(data) > 8192


@pytest.fixture
def own_log(monkeypatch):
    """The config that a command line makes."""

    def own_log(*argv):
        values = flags.FlagValues()
        config = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
        resolved = program.resolve_config_names(["prepare", *argv])
        monkeypatch.setattr(sys, "argv", resolved)  # where ml_collections looks for changes
        values(resolved)
        return config.value

    return own_log


@pytest.mark.parametrize("variant", OWN_LOGS)
def test_every_field_of_a_source_stands_in_its_variant_of_the_config(own_log, variant):
    source = own_log(f"--config=own_log:{variant}").data.source.to_dict()
    module = importlib.import_module(sources.SOURCES[source.pop("name")])
    defaults = {field.name: field for field in dataclasses.fields(module.Config)}
    assert set(source) == set(defaults)
    made = sources.from_mapping(module.Config, source, "source")
    for name, field in defaults.items():
        if field.default is not dataclasses.MISSING and name != "interactions":
            assert getattr(made, name) == field.default, name


def test_a_pattern_of_times_is_given_on_the_command_line(own_log, tmp_path):
    log = "user,item,time\na,x,Sun Jul 23 07:26:12 -0700 2017\na,y,Sun Jul 23 07:26:12 +0000 2017\n"
    (tmp_path / "log.csv").write_text(log)
    argv = [f"--config.data.source.folder={tmp_path}", "--config.data.source.interactions=log.csv"]
    argv += ["--config.data.source.time_unit=%a %b %d %H:%M:%S %z %Y", "--config.data.k_core=0"]
    prepare(own_log("--config=own_log:csv", *argv).data.to_dict(), tmp_path / "prepared")
    times = Prepared.load(tmp_path / "prepared").columns["time"]
    assert times.tolist() == [1_500_794_772, 1_500_819_972]


def test_a_log_is_described_on_the_command_line(own_log, tmp_path):
    log = "who,what,when,how,note\nann,7,2017-07-14,view,x\nann,8,2017-07-15,buy,\nbob,7,,view,\n"
    (tmp_path / "events-1.csv").write_text(log)
    (tmp_path / "events-2.csv").write_text(log.replace("ann", "cid").replace("bob", "dan"))
    (tmp_path / "items.jsonl").write_text('{"sku": 7, "name": "N", "kind": ["a", "b"]}\n{"sku": 8}')
    fields = {
        "folder": tmp_path,
        "interactions": "events-*.csv",
        "user": "who",
        "item": "what",
        "time": "when",
        "time_unit": "iso",
        "event": "how",
        "events": "view=1,buy=2.5",
        "catalogue": "items.jsonl",
        "item_id": "sku",
        "title": "name",
        "attributes": "kind",
    }
    argv = [f"--config.data.source.{name}={value}" for name, value in fields.items()]
    argv += ["--config.data.on_bad_rows=skip", "--config.data.k_core=0"]
    data = own_log("--config=own_log:csv", *argv).data.to_dict()
    manifest = prepare(data, tmp_path / "prepared")
    assert manifest["counts"]["read"]["interactions"] == 4
    assert manifest["skipped"]["not_a_time"] == {
        "rows": 2,
        "first": "events-1.csv, line 4: 'when' is '', which is not a time (time_unit is 'iso')",
    }
    assert sorted(manifest["inputs"]) == ["events-1.csv", "events-2.csv", "items.jsonl"]
    assert manifest["event_weights"] == [1.0, 2.5]
    assert LogConfig("log", event="how", events={"a": 1.0}).events == {"a": 1.0}
