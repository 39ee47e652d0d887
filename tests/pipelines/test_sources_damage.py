"""Random damage to valid files: the clean rows less the damaged ones, or an error, never silence.

What can be asserted is told line by line. Damage may make another valid line (a digit of an id is
changed), and in CSV a quote that is put in may make one long row of several lines, which no reader
can tell from an intended one. Everything else is held: lines that are as they were give the rows
they gave, no row comes from anywhere else, and what is gone was counted.
"""

import csv
import functools
import gzip
import json
import random
import re
import sqlite3
import tempfile
from pathlib import Path
from unittest import mock

import hypothesis
import pytest
import zstandard
from hypothesis import strategies as st

from pipelines import sources
from pipelines.prepare.ingest import read_log
from pipelines.sources.own_log import LogColumns, TablePart
from pipelines.tables import CsvTable, JsonlTable, SqliteTable, csv_table, jsonl_table
from pipelines.tables import table as sizes
from pipelines.tables.bad_rows import BadRows
from tests.pipelines.source_layouts import LAYOUTS, pack, seconds

NOTES = ["plain", '"a, ""b"" c"', "", '"two\nlines"', 'five" wide', '"x"', "né"]
CSV = "user,item,time,note\n" + "".join(
    f"u{at % 5},i{at % 7},{1_500_000_000 + at * 1000},{NOTES[at % len(NOTES)]}\n"
    for at in range(28)
)
JSONL = "".join(
    json.dumps({"user": f"u{at % 5}", "item": at % 7, "time": 1_500_000_000 + at, "note": note})
    + "\n"
    for at in range(20)
    for note in [NOTES[at % len(NOTES)]]
)
BYTES = [b'"', b'""', b"\n", b"\r\n", b"\r", b",", b"\x00", b"\t", b"\xef\xbb\xbf", b"\xff", b"7"]
BYTES += [b" ", b"-", b"\\", b"{", b"}", b"[", b":", b"NaN", b"\xc2\x85", "😀".encode()]
# A file is read in pieces of so many bytes, too: some lines each, and the end within another.
PIECE = 160

damages = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 255)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.sampled_from(BYTES)),
        st.tuples(st.just("delete"), st.floats(0, 1), st.integers(1, 40)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.none()),
        st.tuples(st.just("swap"), st.floats(0, 1), st.floats(0, 1)),
        st.tuples(st.just("repeat"), st.floats(0, 1), st.none()),
        st.tuples(st.just("field"), st.floats(0, 1), st.sampled_from(BYTES)),
    ),
    min_size=1,
    max_size=3,
)
settings = hypothesis.settings(max_examples=70, deadline=None, derandomize=True, database=None)


def damage(data: bytes, steps, *, keep: int) -> bytes:
    """Damages what lies behind the first `keep` bytes."""
    head, data = data[:keep], data[keep:]
    for kind, where, how in steps:
        at = min(int(where * len(data)), max(len(data) - 1, 0))
        lines = data.split(b"\n")
        line = min(int(where * len(lines)), len(lines) - 1)
        if kind == "flip" and data:
            data = data[:at] + bytes([how]) + data[at + 1 :]
        elif kind == "insert":
            data = data[:at] + how + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + how :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "swap":
            other = min(int(how * len(lines)), len(lines) - 1)
            lines[line], lines[other] = lines[other], lines[line]
            data = b"\n".join(lines)
        elif kind == "repeat":
            data = b"\n".join([*lines[: line + 1], *lines[line:]])
        elif kind == "field":
            fields = lines[line].split(b",")
            fields[int(where * 7919) % len(fields)] = how
            data = b"\n".join([*lines[:line], b",".join(fields), *lines[line + 1 :]])
    return head + data


def read(table, action="skip"):
    bad_rows = BadRows(action)
    part = TablePart(table, LogColumns())
    rows = {
        line: (user, item, seconds(time))
        for chunk in part.chunks(bad_rows)
        for user, item, time, line in chunk.select("user", "item", "time", "line").rows()
    }
    return rows, bad_rows.counts


def check_ways(make_table, data, path):
    """Reads a file in all ways, which must agree, and returns rows by line, and counts."""
    path.write_bytes(data)
    rows, counts = read(make_table(is_exact=False))
    assert (rows, counts) == read(make_table(is_exact=True))
    for place, name in ((sizes, "BLOCK_BYTES"), (csv_table, "_SMALL"), (jsonl_table, "_SMALL")):
        with mock.patch.object(place, name, PIECE):
            assert (rows, counts) == read(make_table(is_exact=False))
    if counts:
        with pytest.raises(ValueError, match=path.name):
            read(make_table(is_exact=False), "error")
    else:
        assert read(make_table(is_exact=False), "error") == (rows, counts)
    return rows, counts


@functools.cache
def folder():
    return tempfile.TemporaryDirectory()


def normal_lines(data: bytes) -> list[bytes]:
    """The physical lines, from 1, line ends made one; the first of a file has no mark."""
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    return [b"", *(lines if lines[-1] else lines[:-1])]


def lines_of_row(lines: list[bytes], line: int) -> int:
    """How many lines the row takes that begins in one, by Python's reader."""
    rest = [text.decode("utf-8", "replace") + "\n" for text in lines[line:]]
    reader = csv.reader(rest, strict=True)
    next(reader)
    return reader.line_num


@settings
@hypothesis.given(damages)
@hypothesis.example([("insert", 0.0, b'"')])
@hypothesis.example([("insert", 0.5, b'"'), ("insert", 0.6, b'"')])
@hypothesis.example([("delete", 0.16, 1)])
def test_damaged_csv_loses_what_is_damaged_and_says_so(steps):
    path = Path(folder().name) / "log.csv"
    clean, damaged = CSV.encode(), damage(CSV.encode(), steps, keep=CSV.index("\n") + 1)
    clean_lines = normal_lines(clean)
    make_table = functools.partial(CsvTable, str(path), path.name)
    path.write_bytes(clean)
    clean_rows, none = read(make_table())
    assert len(clean_rows) == 28
    assert not none
    rows, counts = check_ways(make_table, damaged, path)
    lines = normal_lines(damaged)

    one_line = {
        clean_lines[line]: row
        for line, row in clean_rows.items()
        if lines_of_row(clean_lines, line) == 1
    }
    covered = set()
    for line, row in rows.items():
        if lines[line] in one_line:
            assert row == one_line[lines[line]], "a line that is as it was gives its row"
        elif lines[line] not in clean_lines:
            assert lines[line], "a row comes from a line"
        if b'"' in lines[line]:
            covered.update(range(line + 1, line + lines_of_row(lines, line)))
    for line, text in enumerate(lines):
        if text in one_line and line not in covered:
            assert line in rows, f"line {line} is as it was, and lost"
    gone = {
        line
        for line, text in enumerate(lines)
        if line > 1 and text and line not in rows and line not in covered
    }
    in_file = counts.pop("no_rows", 0)
    assert bool(sum(counts.values())) == bool(gone)
    assert sum(counts.values()) <= len(gone)
    assert bool(in_file) == (not rows and not gone)


@settings
@hypothesis.given(damages)
def test_damaged_json_lines_lose_what_is_damaged_and_say_so(steps):
    path = Path(folder().name) / "log.jsonl"
    clean, damaged = JSONL.encode(), damage(JSONL.encode(), steps, keep=0)
    make_table = functools.partial(JsonlTable, str(path), path.name)
    path.write_bytes(clean)
    clean_rows, _ = read(make_table())
    row_of = {normal_lines(clean)[line]: row for line, row in clean_rows.items()}
    rows, counts = check_ways(make_table, damaged, path)
    lines = normal_lines(damaged.removeprefix(b"\xef\xbb\xbf"))
    for line, text in enumerate(lines):
        if text in row_of:
            assert rows.get(line) == row_of[text]
    gone = {line for line, text in enumerate(lines) if text.strip() and line not in rows}
    in_file = counts.pop("empty_file", 0)
    assert sum(counts.values()) == len(gone)
    assert bool(in_file) == (not rows and not gone)


@settings
@hypothesis.given(damages, st.booleans())
def test_damage_anywhere_in_a_csv_file_is_never_another_kind_of_error(steps, is_compressed):
    path = Path(folder().name) / "any.csv"
    data = gzip.compress(CSV.encode(), mtime=0) if is_compressed else CSV.encode()
    path.write_bytes(damage(data, steps, keep=0))
    table = CsvTable(str(path), path.name)
    outcome = ""
    try:
        there = table.columns()
        if {"user", "item", "time"} <= set(there) or not there:
            read(table)
    except ValueError as error:
        outcome = str(error)
    assert not outcome or path.name in outcome


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(damages)
def test_damage_to_an_sqlite_file_is_never_another_kind_of_error(steps):
    path = Path(folder().name) / "log.db"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE log (user, item, time)")
        rows = [(f"u{at % 7}", at % 5, 1_500_000_000 + at) for at in range(200)]
        connection.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)
    connection.close()
    path.write_bytes(damage(path.read_bytes(), steps, keep=0))
    outcome = ""
    try:
        read(SqliteTable(str(path), path.name, "log"))
    except ValueError as error:
        outcome = str(error)
    assert not outcome or path.name in outcome


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@hypothesis.given(st.floats(0, 1))
def test_a_compressed_file_that_is_cut_off_gives_the_rows_before_the_cut(where):
    path = Path(folder().name) / "log.csv.gz"
    clean = "".join(f"u{at % 97},i{at * 7919 % 1009},{1_500_000_000 + at}\n" for at in range(1500))
    data = gzip.compress(b"user,item,time\n" + clean.encode(), mtime=0)
    path.write_bytes(data)
    table = CsvTable(str(path), path.name)
    whole, _ = read(table)
    size = 2 + int(where * (len(data) - 3))
    path.write_bytes(data[:size])
    rows, counts = read(table)
    assert counts == {"truncated_file": 1}
    assert list(rows.items()) == list(whole.items())[: len(rows)]
    with pytest.raises(ValueError, match=r"log.csv.gz: the compressed file ends in the middle"):
        read(table, "error")


# What a file may hold instead of what it should, or at its beginning.
OTHERS = [
    b"",
    b"\0",
    bytes(5000),
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xff" * 1000,
    b"\n" * 1000,
    b"\r",
]
OTHERS += [
    b"[" * 5000 + b"]" * 5000,
    b'{"a":' * 3000 + b"1" + b"}" * 3000,
    b"9" * 5000,
    b"," * 20_000,
]
OTHERS += [
    b'{"1": null, "2": 5}',
    b'{"1": [' + b"9" * 4500 + b"]}",
    b'{"1": [NaN, 1e999]}',
    b"[]",
    b"{}",
]
OTHERS += [
    b'{"1": {"title": "\\ud800"}}',
    b'{"user": "\\ud800", "item": 1, "time": 1}',
    b'"' * 1001,
]
OTHERS += [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18" + b"\xff" * 4, b"PAR1" * 3]
OTHERS += [
    b"SQLite format 3\0" + bytes(100),
    b"{'user': " + b"(" * 500,
    "\u0663\u2028\x85".encode(),
]
TEXTS = [
    b"9" * 5000,
    b"-1",
    b"1e400",
    b"NaN",
    b"",
    b"\0",
    b"\xed\xa0\x80",
    b"x" * 70_000,
    b"[[[]]]",
    b"[1",
]
TEXTS += [
    b"\\ud800",
    b"9223372036854775808",
    b"1_0",
    "\u0663".encode(),
    b"null",
    b"9999-12-31",
    b"{}",
]


def any_damage(rng: random.Random, data: bytes) -> bytes:
    """Damages a file that may be binary."""
    start, stop = sorted(rng.randrange(len(data)) for _ in range(2))
    words = [word.span() for word in re.finditer(rb"[\w.]+", data)]
    first, last = rng.choice(words)
    flipped = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 20])):
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return rng.choice(
        [
            bytes(flipped),
            bytes(flipped),
            data[:start],
            data[:start] + data[stop:],
            data[:stop] + data[start:],
            data[:first] + rng.choice(TEXTS) + data[last:],
            data[:first] + rng.choice(TEXTS) + data[last:],
            data[:start] + rng.choice([b"\xff", b"\0", b"\x7f"]) * 4 + data[start + 4 :],
            rng.choice(OTHERS),
            rng.choice(OTHERS) + data,
        ]
    )


def unpacked(path: Path) -> bytes | None:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    return zstandard.decompress(path.read_bytes()) if path.suffix == ".zst" else None


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_damage_to_any_file_of_a_layout_is_told_in_one_line_that_names_a_file(layout, tmp_path):
    """It may be another file: a log names an item that the catalogue lacks now."""
    rows = [(f"{at % 5}", f"{at % 7}", 1_500_000_000 + at, at % 2) for at in range(25)]
    items = [(str(at), f"title {at}", f"brand {at % 2}", ["a", "b"]) for at in range(7)]
    config = layout.write(tmp_path, rows, items)
    paths = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    rng = random.Random(layout.name)

    def check(action):
        bad_rows = BadRows(action)
        try:
            read_log(sources.load(config, bad_rows), bad_rows)
        except (ValueError, OSError) as error:
            message = str(error)
            assert len(message.splitlines()) == 1
            assert len(message) < 1500
            assert any(path.name in message for path in paths)

    for path in paths:
        clean, inner = path.read_bytes(), unpacked(path)
        for _ in range(5):
            if inner is not None and rng.random() < 0.5:
                pack(path, any_damage(rng, inner))
            else:
                path.write_bytes(any_damage(rng, clean))
            check("error")
            check("skip")
        path.write_bytes(clean)
        check("error")
