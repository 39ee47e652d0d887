"""Files made to fill the memory, or to look like what they are not."""

import gzip
import re
import signal
import sqlite3
import time
import tracemalloc

import numpy as np
import polars as pl
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from pipelines import sources
from pipelines.sources.fields import text_list
from pipelines.sources.items import ItemColumns, read_items
from pipelines.sources.own_log import LogColumns, TablePart
from pipelines.tables import JsonlTable, ParquetTable, PyLinesTable, SqliteTable, parquet_table
from pipelines.tables import table as sizes
from pipelines.tables.ahead import ahead
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.text_file import text_blocks

HEAD = b"user,item,time\n"
MEBIBYTE = 1 << 20


def zst(pieces, window_log=20, level=3):
    parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=window_log)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return b"".join([*map(stream.compress, pieces), stream.flush()])


def write(folder, name, pieces):
    pieces = list(pieces)
    data = b"".join(pieces)
    if name.endswith(".gz"):
        data = gzip.compress(data, 6, mtime=0)
    (folder / name).write_bytes(zst(pieces) if name.endswith(".zst") else data)
    return folder / name


@pytest.fixture(scope="module")
def zeros():
    """200 MiB in 7 KB."""
    return zst([HEAD, *[bytes(MEBIBYTE)] * 200])


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.csv.zst"])
def test_a_line_is_cut_short_before_it_fills_the_memory(tmp_path, name, zeros):
    if name.endswith(".zst"):
        assert len(zeros) < 10_000
        (tmp_path / name).write_bytes(zeros)
    else:
        write(tmp_path, name, [HEAD, *[bytes(MEBIBYTE)] * 40, b"\n"])
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"{name}, line 2: longer than 16 MiB"):
        list(text_blocks(str(tmp_path / name)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # What 2 KiB of Zstandard become, twice while it is put together, and a line.
    assert most < 150 * MEBIBYTE


def test_a_line_is_as_long_as_it_is_wherever_pieces_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "MAX_LINE_BYTES", 50)
    monkeypatch.setattr(sizes, "BLOCK_BYTES", 7)
    lines = [b"x" * length + b"\n" for length in (50, 1, 0, 49, 50)]
    for name in ("a.csv", "a.csv.gz", "a.csv.zst"):
        path = str(write(tmp_path, name, lines))
        assert b"".join(block.data for block in text_blocks(path)) == b"".join(lines)
        path = str(write(tmp_path, name, [*lines, b"x" * 51, b"\n", *lines]))
        with pytest.raises(ValueError, match=rf"{name}, line 6: longer"):
            list(text_blocks(path))


def test_a_window_that_would_fill_the_memory_is_an_error_that_says_so(tmp_path):
    (tmp_path / "log.csv.zst").write_bytes(zst([HEAD] * 50_000, window_log=28))
    with pytest.raises(
        ValueError, match=r"log.csv.zst: .*window of more than 128 MiB; compress it"
    ):
        list(text_blocks(str(tmp_path / "log.csv.zst")))


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ('"' + "x" * 140_000 + '",b,1', "field_too_long", "a field of more than 131072 characters"),
        ("," * 100_000, "wrong_number_of_fields", "100001 fields instead of 3"),
        ("x" * 140_000 + ",b,1", "id_too_long", "has 140000 characters"),
    ],
)
def test_long_fields_are_bad_rows_however_they_are_written(tmp_path, text, reason, message):
    (tmp_path / "log.csv").write_bytes(HEAD + text.encode() + b"\nann,b,2\n")
    bad_rows = BadRows("skip")
    config = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv"}
    chunks = [c for part in sources.load(config).parts for c in part.chunks(bad_rows)]
    assert [row for chunk in chunks for row in chunk["user"]] == ["ann"]
    assert message in bad_rows.first[reason]
    assert len(bad_rows.first[reason]) < 400


DEEP = "[" * 190 + "]" * 190
HUGE = "9" * 5000
OBJECTS = {
    '"x": ' + "[" * 5000 + "]" * 5000: "not_json",
    '"x": ' + HUGE: "",
    '"item": ' + HUGE: "wrong_type",
    '"item": 1' + "0" * 4100: "number_too_long",
    '"time": ' + HUGE: "time_after_2100",
    f'"title": {DEEP}': "wrong_type",
    f'"item": {DEEP}': "wrong_type",
    '"item": {"a": {"b": 1}}': "wrong_type",
    '"item": "\\ud800"': "not_unicode",
    "1: 2": "not_json",
    "": "not_json",
}


@pytest.mark.parametrize("text", OBJECTS, ids=lambda text: text[:24])
def test_an_object_that_no_one_can_hold_is_one_bad_row(tmp_path, text):
    """A key that a line holds twice is a mistake, so that the line has no other."""
    fields = {"user": '"a"', "item": '"i"', "time": "1", "title": '"t"'}
    key = text.partition(":")[0].strip('"')
    line = ", ".join([*(f'"{name}": {x}' for name, x in fields.items() if name != key), text])
    good = '{"user": "b", "item": "j", "time": 2, "title": "u"}'
    (tmp_path / "log.jsonl").write_text(f"{{{line}}}\n{good}\n")
    bad_rows = BadRows("skip")
    table = JsonlTable(str(tmp_path / "log.jsonl"), "log.jsonl")
    users = [u for c in TablePart(table, LogColumns()).chunks(bad_rows) for u in c["user"]]
    items = read_items([table], ItemColumns("item", "title"), bad_rows)
    reason = OBJECTS[text]
    assert users[-1] == "b"
    assert items["raw_item_id"][-1] == "j"
    assert set(bad_rows.counts) == ({reason} if reason else set())
    assert all(first.startswith("log.jsonl, line 1: ") for first in bad_rows.first.values())
    assert all(len(first) < 400 for first in bad_rows.first.values())


def read_pylines(path):
    bad_rows = BadRows("skip")
    part = TablePart(PyLinesTable(str(path), path.name), LogColumns())
    users = [user for chunk in part.chunks(bad_rows) for user in chunk["user"]]
    return users, bad_rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('touch PATH')", "it is a Call"),
        ("{'user': open('PATH', 'w').write('x')}", "it holds more than literals"),
        ("{'user': [x for x in (1,)]}", "it holds more than literals"),
        ("{'user': f'{1 + 1}'}", "it holds more than literals"),
        ("{**{'user': 'a'}}", "a key is not text"),
        ("{7: 'a'}", "a key is not text"),
        ("{'user': 'a', 'item': 1, 'item': 2}", "key 'item' is there more than once"),
        ("{'user': true, 'item': null}", "it holds more than literals"),
        ("{'user': 'a'", "was never closed"),
        ("['a']", "it is a List"),
        ("'a'", "it is a Constant"),
        ("import os", "invalid syntax"),
        ("{'user': " + "[" * 5000 + "]" * 5000 + "}", "too many nested"),
        ("{'user': " + "-" * 100_000 + "1}", "too complex|recursion"),
        ("{'user': " + "1+" * 50_000 + "1}", "recursion"),
        ("{'user': " + "a." * 50_000 + "a}", "recursion"),
        ("{'user': " + "9" * 5000 + "}", "Exceeds the limit"),
        ("{'user': 0x" + "f" * 50_000 + ", 'item': 1, 'time': 1}", "a number of fewer than"),
        ("{'user': 'a', 'item': 1.0, 'time': 1}", "'item' is 1.0; it must be a text or a whole"),
        ("{'user': b'a', 'item': 1, 'time': 1}", "'user' is b'a'; it must be"),
        ("{'user': {'a'}, 'item': 1, 'time': 1}", "it must be a text"),
        ("{'user': ..., 'item': 1, 'time': 1}", "it must be a text"),
        ("{'user': 1j, 'item': 1, 'time': 1}", "it must be a text"),
        ("{'user': True, 'item': 1, 'time': 1}", "it must be a text"),
        ("{'user': '\\ud800', 'item': 1, 'time': 1}", "valid Unicode"),
        ("{'user': 'a', 'x': '" + "y" * 1_100_000 + "'}", "characters, and may have 1048576"),
        ("{'user': 'a', 'item': {}, 'time': 1}", r"'item' is \{\}; it must be"),
        ("{'user': 'a\0'}", "null bytes"),
    ],
    ids=lambda value: value[:24],
)
def test_what_is_no_dictionary_of_literals_is_one_bad_row_and_never_run(tmp_path, text, message):
    good = "{u'user': u'caf\\xe9 \\d', 'item': 'i', 'time': 5, 'more': [(1, None), {'a': True}]}"
    path = tmp_path / "log.json"
    text = text.replace("PATH", str(tmp_path / "made"))
    path.write_text(f"{good}\n{text}\n\n{good}\n")
    users, bad_rows = read_pylines(path)
    assert users == ["caf\xe9 \\d"] * 2
    assert sum(bad_rows.counts.values()) == 1
    (first,) = bad_rows.first.values()
    assert re.search(rf"^log.json, line 2: .*(?:{message})", first)
    assert len(first) < 400
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("at", ["collect", "collect_schema"])
def test_a_panic_over_a_damaged_parquet_file_names_the_file(tmp_path, monkeypatch, at):
    pl.DataFrame({"user": ["a"], "item": ["b"], "time": [1]}).write_parquet(tmp_path / "a.parquet")
    table = ParquetTable(str(tmp_path / "a.parquet"), "a.parquet")

    def panic(*_, **__):
        raise pl.exceptions.PanicException("index out of bounds")

    monkeypatch.setattr(pl.LazyFrame, at, panic)
    with pytest.raises(ValueError, match=r"a.parquet: .*index out of bounds"):
        list(table.rows({"user": "id", "item": "id", "time": "time"}))


@pytest.mark.parametrize(
    "text",
    [
        "{[1]}",
        "{{}: 1}",
        "[0x" + "f" * 50_000 + "]",
        "[" * 5000,
        "-" * 100_000,
        "[" + "1," * 600_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_list_written_as_text_that_no_one_can_hold_is_no_list(text):
    assert text_list(text) is None
    assert text_list("['a', 7]") == ["a", 7]


def test_a_header_of_a_million_columns_is_an_error_and_many_are_not_all_listed(tmp_path):
    config = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv"}
    (tmp_path / "log.csv").write_bytes(b"," * 1_000_000 + b"\n")
    with pytest.raises(ValueError, match=r"log.csv, line 1: 1000001 columns stand in the header"):
        sources.load(config)
    (tmp_path / "log.csv").write_text(",".join(f"column{at}" for at in range(9000)))
    with pytest.raises(ValueError, match=r"no column 'user'.* and 8960 more; set the") as error:
        sources.load(config)
    assert len(str(error.value)) < 2000


def test_a_parquet_file_that_says_a_long_text_once_for_all_rows_is_read_in_parts(tmp_path):
    """2 GB of text in a few KB: Polars shares what is equal until something is done with it."""
    path = tmp_path / "a.parquet"
    text = pyarrow.array(["x" * 1_000_000])
    users = pyarrow.DictionaryArray.from_arrays(np.zeros(2000, np.int32), text)
    parquet.write_table(pyarrow.table({"user": users}), path, store_schema=False)
    assert path.stat().st_size < 200_000
    lines = []
    for block in ParquetTable(str(path), path.name).rows({"user": "id"}):
        assert block.frame.estimated_size() <= 256 * MEBIBYTE
        lines += block.line.tolist()
    assert lines == [*range(1, 2001)]


def test_parts_of_a_parquet_file_are_the_whole_of_it_and_a_row_may_be_too_long(
    tmp_path, monkeypatch
):
    path = tmp_path / "a.parquet"
    texts = ["y" * (at * 7919 % 50) for at in range(300)]
    pl.DataFrame({"title": texts, "tags": [[text] for text in texts]}).write_parquet(path)
    table = ParquetTable(str(path), path.name)
    monkeypatch.setattr(parquet_table, "_MOST_BYTES", 200)
    blocks = list(table.rows({"title": "text", "tags": "list"}))
    assert len(blocks) > 100
    assert [text for block in blocks for text in block.frame["title"]] == texts
    assert [line for block in blocks for line in block.line] == [*range(1, 301)]
    texts[77] = "y" * 201
    pl.DataFrame({"title": texts}).write_parquet(path)
    with pytest.raises(ValueError, match=r"a.parquet, row 78: longer than"):
        list(table.rows({"title": "text"}))


# Ends by itself after a minute or so, so that the tests below do.
LONG_QUERY = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 500000000) "
    "SELECT x AS user, 'i' AS item, x AS time FROM n WHERE x < 0"
)


@pytest.fixture
def long_query(tmp_path):
    sqlite3.connect(tmp_path / "log.db").execute("CREATE TABLE log (user)").connection.close()
    return SqliteTable(str(tmp_path / "log.db"), "log.db", query=LONG_QUERY)


def test_a_query_without_end_is_ended_by_a_signal(long_query):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    begin = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            long_query.columns()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begin < 10


def test_a_query_without_end_ends_when_nobody_reads_on(long_query):
    begin = time.monotonic()
    with ahead(lambda: long_query.rows({"user": "id"})):
        pass
    assert time.monotonic() - begin < 10
