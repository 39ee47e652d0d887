"""What every source must do, run by all of them over the same interactions."""

import pathlib
import pickle
import re

import numpy as np
import polars as pl
import pytest

from pipelines import sources
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.tables import table as sizes
from pipelines.tables.bad_rows import BadRows
from tests.pipelines.source_layouts import EVENTS, LAYOUTS, TABLES, seconds

ids = [layout.name for layout in LAYOUTS]
every_source = pytest.mark.parametrize("layout", LAYOUTS, ids=ids)
every_table = pytest.mark.parametrize("layout", TABLES, ids=[layout.name for layout in TABLES])

START = 1_500_000_000


def make_rows(num_rows=40, num_users=6, num_items=9, seed=0):
    """Rows in order of time: (user, item, time, event)."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(START, START + 10**8, num_rows))
    return [
        (f"u{rng.integers(num_users)}", str(10 + rng.integers(num_items)), int(time), int(event))
        for time, event in zip(times, rng.integers(2, size=num_rows), strict=True)
    ]


def make_items(rows):
    names = sorted({row[1] for row in rows} | {"99"})
    return [
        (name, f"Title {name}, it's", f"Brand {int(name) % 3}", [f"c{int(name) % 4}", "all"])
        for name in names
    ]


ROWS = make_rows()


def read(config, action="error"):
    """The interactions, line by line, and what was told of others."""
    bad_rows = BadRows(action)
    raw = sources.load(config, bad_rows)
    # Parts are sent to other processes.
    parts = pickle.loads(pickle.dumps(raw.parts))
    chunks = [chunk for part in parts for chunk in part.chunks(bad_rows)]
    for chunk in chunks:
        assert chunk["user"].dtype in (pl.String, pl.Int64)
        assert chunk["item"].dtype in (pl.String, pl.Int64)
        assert chunk.schema["time"] == chunk.schema["line"] == pl.Int64
        assert chunk.schema["event"] == pl.Int32
        assert not any(chunk.null_count().row(0))
    rows = [
        (str(user), str(item), seconds(time), event, line)
        for chunk in chunks
        for user, item, time, event, line in chunk.select(
            "user", "item", "time", "event", "line"
        ).rows()
    ]
    return raw, rows, bad_rows


def seen(layout, rows):
    """What of rows a layout can hold: in order by user, or in the order of the log."""
    rows = [
        (
            row[0],
            row[1],
            row[2] if layout.has_times else None,
            row[3] if layout.has_events else None,
        )
        for row in rows
    ]
    return rows if layout.is_table else sorted(rows, key=lambda row: row[0])


@every_source
def test_the_same_interactions_come_out_of_every_layout(layout, tmp_path):
    config = layout.write(tmp_path, ROWS)
    raw, rows, _ = read(config)
    assert seen(layout, rows) == seen(layout, ROWS)
    assert raw.has_times == layout.has_times
    if layout.has_events:
        assert raw.event_types == EVENTS
        assert raw.event_weights == (1.0, 3.0)
    if layout.is_table:
        lines = [row[4] for row in rows]
        assert lines == list(range(layout.first_line, layout.first_line + len(ROWS)))
    read_back = [(*row[:2], seconds(row[2]), row[3]) for row in raw.interactions.rows()]
    assert seen(layout, read_back) == seen(layout, ROWS)


@every_source
def test_the_catalogue_keeps_its_order_and_items_without_interactions(layout, tmp_path):
    items = make_items(ROWS)
    raw, _, _ = read(layout.write(tmp_path, ROWS, items))
    assert raw.items["raw_item_id"].to_list() == [item[0] for item in items]
    if layout.has_titles:
        assert raw.items["title"].to_list() == [item[1] for item in items]
        assert raw.items["text"].to_list()[0].startswith(f"{items[0][1]}\n{items[0][2]}")
    attributes = raw.items["attributes"].to_list()
    if layout.name == "retailrocket":  # of a property's values only the latest
        assert attributes == [["category=all"] for _ in items]
    else:
        found = [[entry.split("=")[1] for entry in entries] for entries in attributes]
        assert [entries[-2:] for entries in found] == [item[3] for item in items]


@every_source
def test_any_text_and_any_number_is_an_id_that_comes_back_as_it_was(layout, tmp_path):
    users = ["😀", "Zoë-'x'", "a=b;c", "9223372036854775808", "2147483648", "naïve|", "007"]
    items = ["2147483648", "4294967296", "900719925474099312", "17"]
    if not layout.whole_numbers:
        users += ["a b", 'q"uo"te', "e\u0301", "NULL", "NaN", "\u2028", "x" * 1000]
        items += ["😀", "18446744073709551616", "a, b", "1.0", "00", "\ufeffx", "true", "-0"]
        if layout.name != "recbole":  # where a value begins with a quote, it is part of it
            items += ['"quoted"', "\\", "'"]
    rows = [(user, item, START, 0) for user in users for item in items]
    config = layout.write(tmp_path / "raw", rows)
    split = "as_given" if layout.name == "minionerec" else "leave_one_out"
    prepare({"source": config, "split": split}, tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    assert set(prepared.raw_item_ids) == set(items)
    assert set(prepared.users["raw_user_id"]) == set(users)
    if layout.is_table:
        names = [prepared.raw_item_ids[item] for item in prepared.columns["item"]]
        assert names == items * len(users)


@every_source
def test_small_blocks_give_what_one_block_gives(layout, tmp_path, monkeypatch):
    rows = list(ROWS)
    if layout.is_table and not layout.is_typed:
        rows[7] = (rows[7][0], rows[7][1], "soon", 0)
        rows[20] = ("", *rows[20][1:])
        rows[21] = (*rows[21][:3], "bought")
    config = layout.write(tmp_path, rows, make_items(ROWS))
    raw, whole, bad_rows = read(config, "skip")
    monkeypatch.setattr(sizes, "BLOCK_BYTES", 70)
    monkeypatch.setattr(sizes, "BLOCK_ROWS", 3)
    raw_in_pieces, in_pieces, bad_in_pieces = read(config, "skip")
    assert in_pieces == whole
    assert bad_in_pieces.report() == bad_rows.report()
    assert raw_in_pieces.items.equals(raw.items)
    if layout.is_table and not layout.is_typed:
        assert bad_rows.counts == {"not_a_time": 1, "empty_id": 1, "unknown_event": 1}
        with pytest.raises(ValueError, match=rf"{layout.place} {layout.first_line + 7}: .*'soon'"):
            read(config)


@every_source
def test_a_missing_file_is_an_error_that_names_it(layout, tmp_path):
    config = layout.write(tmp_path, ROWS)
    (tmp_path / layout.log).unlink()
    with pytest.raises(ValueError, match=re.escape(layout.log)):
        read(config, "skip")


@every_source
def test_an_item_that_the_catalogue_lacks_is_an_error_or_a_count(layout, tmp_path):
    items = [item for item in make_items(ROWS) if item[0] != ROWS[5][1]]
    config = layout.write(tmp_path / "raw", ROWS, items)
    if layout.name == "retailrocket":
        pytest.skip("its catalogue is made of the log as well")
    split = "as_given" if layout.name == "minionerec" else "leave_one_out"
    with pytest.raises(ValueError, match=f"{ROWS[5][1]}'?,? which .* lacks"):
        prepare({"source": config, "split": split}, tmp_path / "prepared")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    manifest = prepare(
        {"source": config, "split": split, "on_bad_rows": "skip"}, tmp_path / "prepared"
    )
    expected = sum(row[1] == ROWS[5][1] for row in ROWS)
    found = manifest["skipped"]["unknown_item"]
    if layout.name != "minionerec":  # a row of it holds many
        assert found["rows"] == expected
        assert manifest["counts"]["read"]["interactions"] == len(ROWS) - expected
    assert ROWS[5][1] in found["first"]
    assert str(tmp_path) not in found["first"]


@every_source
@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "Git LFS pointer"),
        ("/annex/objects/SHA256E-s12--0.csv\n", "git-annex pointer"),
    ],
)
def test_a_file_that_was_never_fetched_is_named_as_such(layout, tmp_path, head, message):
    config = layout.write(tmp_path, ROWS, make_items(ROWS))
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        path.write_text(head)
        with pytest.raises(ValueError, match=rf"{re.escape(path.name)}: is a {message}.*fetch it"):
            read(config, "skip")
        path.write_bytes(data)
    read(config)


@every_table
def test_a_missing_column_is_an_error_that_lists_those_there_are(layout, tmp_path):
    config = layout.write(tmp_path, ROWS)
    if layout.name == "retailrocket":
        (tmp_path / layout.log).write_text("when,visitorid,event,itemid\n1,u,view,i\n")
    else:
        config["time"] = "moment"
    with pytest.raises(ValueError, match=rf"{layout.log}: there is no column .*; it has .*event"):
        read(config, "skip")


@every_table
@pytest.mark.parametrize(
    ("field", "value", "reason", "message"),
    [
        (2, "soon", "not_a_time", "'soon', which is not a time"),
        (2, "", "not_a_time", "which is not a time"),
        (2, "nan", "not_a_time", "'nan', which is not a time"),
        (2, "-5", "negative_time", "'-5', which lies before 1970"),
        (2, "1e20", "time_after_2100", "after the year 2100"),
        (0, "", "empty_id", "is empty"),
        (1, "  ", "empty_id", "is empty"),
        (1, "a\x01b", "control_character", r"'a\\x01b', with a control character"),
        (1, "a\tb", "control_character", r"'a\\tb', with a control character"),
        (0, "x" * 1001, "id_too_long", "has 1001 characters; an id has at most 1000"),
        (3, "buy", "unknown_event", "'buy'; source.events knows 'view', 'cart'"),
    ],
)
def test_a_wrong_value_is_an_error_or_a_count(layout, tmp_path, field, value, reason, message):
    if layout.is_typed and field == 2:
        pytest.skip("a column of times cannot hold it")
    if layout.name == "recbole" and value == "a\tb":
        pytest.skip("a tab ends the field there")
    rows = list(ROWS[:6])
    wrong = list(rows[3])
    wrong[field] = value
    config = layout.write(tmp_path / "raw", [*rows[:3], tuple(wrong), *rows[4:]])
    where = rf"{re.escape(layout.log)}, {layout.place} {layout.first_line + 3}: "
    with pytest.raises(ValueError, match=rf"{where}.*{message}.*on_bad_rows='skip'"):
        read(config)
    _, found, bad_rows = read(config, "skip")
    assert seen(layout, found) == seen(layout, [*rows[:3], *rows[4:]])
    assert bad_rows.counts == {reason: 1}
    assert re.match(where, bad_rows.first[reason])


@every_table
def test_times_in_another_unit_are_bad_rows(layout, tmp_path):
    rows = [("u", "1", START, 0), ("u", "2", START * 1000, 0), ("u", "3", START // 1000, 0)]
    config = layout.write(tmp_path, rows)
    _, found, bad_rows = read(config, "skip")
    if layout.name == "retailrocket":  # is in milliseconds: what is written is 1000 times as much
        assert [row[1] for row in found] == ["1"]
        assert bad_rows.counts == {"time_in_another_unit": 2}
    else:
        assert [row[1] for row in found] == ["1", "3"]
        assert bad_rows.counts == {"time_in_another_unit": 1}
    assert "2017-07-14 in " in bad_rows.first["time_in_another_unit"]


@every_table
def test_a_log_without_rows_is_an_error_or_a_count(layout, tmp_path):
    config = layout.write(tmp_path, [])
    is_objects = layout.name.startswith(("jsonl", "pylines"))
    reason = "empty_file" if is_objects else "no_rows"
    with pytest.raises(ValueError, match=layout.log):
        read(config)
    _, found, bad_rows = read(config, "skip")
    assert found == []
    assert bad_rows.counts == {reason: 1}
    message = f"{layout.log}: no interactions: .* left out: 1 {reason} .first: .*{layout.log}"
    with pytest.raises(ValueError, match=f"{message}|no items"):
        prepare({"source": config, "split": "leave_one_out", "on_bad_rows": "skip"}, tmp_path / "p")


@every_table
def test_an_empty_file_is_an_error(layout, tmp_path):
    config = layout.write(tmp_path, ROWS)
    (tmp_path / layout.log).write_bytes(b"")
    with pytest.raises(ValueError, match=layout.log):
        read(config)


@every_table
def test_files_that_match_a_pattern_are_read_in_order_of_their_names(layout, tmp_path):
    name = layout.log.partition(".")
    pieces = {f"day=2/{name[0]}.{name[2]}": ROWS[20:], f"day=1/{name[0]}.{name[2]}": ROWS[:20]}
    for log, rows in pieces.items():
        config = layout.write(tmp_path, rows, log=log)
    config["interactions"] = f"day=*/*.{name[2]}"
    raw, found, _ = read(config)
    assert [part.name for part in raw.parts] == sorted(pieces)
    assert set(pieces) <= set(raw.inputs)
    assert seen(layout, found) == seen(layout, ROWS)


@every_table
def test_rows_of_a_type_of_weight_0_are_left_out_and_counted(layout, tmp_path):
    config = layout.write(tmp_path / "raw", ROWS)
    config["events"] = {"view": 0.0, "cart": 2.0, "never": 1.0}
    manifest = prepare({"source": config, "split": "leave_one_out"}, tmp_path / "prepared")
    carts = sum(row[3] for row in ROWS)
    assert manifest["counts"]["read"]["interactions"] == carts
    assert manifest["counts"]["read"]["left_out_view"] == len(ROWS) - carts
    assert manifest["event_types"] == ["cart", "never"]
    assert manifest["event_weights"] == [2.0, 1.0]
    assert set(Prepared.load(tmp_path / "prepared").columns["event"].tolist()) == {0}


@every_table
def test_a_log_without_times_or_events_keeps_its_order(layout, tmp_path):
    if layout.name == "retailrocket":
        pytest.skip("always has both")
    shuffled = [ROWS[place] for place in np.random.default_rng(1).permutation(len(ROWS))]
    config = layout.write(tmp_path, shuffled) | {"time": "", "event": "", "events": {}}
    raw, found, _ = read(config)
    assert not raw.has_times
    assert raw.event_types == ("interaction",)
    assert [row[:4] for row in found] == [(row[0], row[1], 0, 0) for row in shuffled]


@every_source
def test_after_an_error_nothing_is_left_and_a_run_after_the_mend_starts_clean(layout, tmp_path):
    split = "as_given" if layout.name == "minionerec" else "leave_one_out"
    config = {"source": layout.write(tmp_path / "raw", ROWS), "split": split}
    if layout.is_table:
        layout.write(tmp_path / "raw", [("u", "", START, 0), *ROWS])
    elif layout.name == "sasrec":
        layout.write(tmp_path / "raw", [("u", "x", START, 0), *ROWS])
    else:
        layout.write(tmp_path / "raw", [("u", "1", START, 0), ("u", "77", START, 0)], [])
    with pytest.raises(ValueError, match=pathlib.Path(layout.log).name):
        prepare(config, tmp_path / "prepared")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    layout.write(tmp_path / "raw", ROWS)
    prepare(config, tmp_path / "prepared")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared", "raw"]


@pytest.mark.parametrize("layout", [x for x in LAYOUTS if x.has_titles and x.is_table], ids=str)
def test_an_item_that_is_listed_twice_is_an_error_that_names_both_places(layout, tmp_path):
    items = make_items(ROWS)
    config = layout.write(tmp_path, ROWS, [*items, items[2]])
    first, second = layout.first_line + 2, layout.first_line + len(items)
    place = rf"[^ ]+, {layout.place} "
    message = rf"{place}{second}: item '{items[2][0]}' is listed already in {place}{first}"
    with pytest.raises(ValueError, match=message):
        read(config)
    raw, _, bad_rows = read(config, "skip")
    assert bad_rows.counts == {"duplicate_item": 1}
    assert raw.items["raw_item_id"].to_list() == [item[0] for item in items]


@pytest.mark.parametrize("layout", [x for x in LAYOUTS if x.log.endswith((".gz", ".zst"))], ids=str)
def test_a_file_cut_off_in_a_compressed_block_ends_there(layout, tmp_path):
    rows = make_rows(2000, num_users=50)
    config = layout.write(tmp_path, rows)
    data = (tmp_path / layout.log).read_bytes()
    (tmp_path / layout.log).write_bytes(data[: len(data) // 2])
    _, found, bad_rows = read(config, "skip")
    # A block of Zstandard is whole or lost.
    assert len(found) < len(rows)
    assert len(found) > 0 or layout.log.endswith(".zst")
    assert seen(layout, found) == seen(layout, rows[: len(found)])
    assert bad_rows.counts == {"truncated_file": 1}
    last = layout.first_line + len(found) - 1
    if found:
        assert f"the last line that is whole is {last}" in bad_rows.first["truncated_file"]
    with pytest.raises(ValueError, match=rf"{layout.log}: .* ends in the middle of a block"):
        read(config)
