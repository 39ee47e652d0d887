"""The full resolution of a log's times decides the order of its records, however it is written."""

import tempfile
from fractions import Fraction
from pathlib import Path

import hypothesis
import numpy as np
import polars as pl
import pytest
from hypothesis import strategies as st

from pipelines import sources
from pipelines.prepare.log_options import AS_IT_IS
from pipelines.prepare.ordered_log import order_in_memory
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.sources.checked import Checked
from pipelines.sources.times import UNITS, to_ticks
from pipelines.tables import Rows
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import TICKS_PER_SECOND
from tests.pipelines.time_layouts import TIME_LAYOUTS

START = 1_500_000_000 * TICKS_PER_SECOND
settings = hypothesis.settings(max_examples=6, deadline=None, derandomize=True, database=None)

# Some seconds, and in each some moments that differ at one of nine digits.
times = st.builds(
    lambda second, count, digit: START + second * TICKS_PER_SECOND + count * 10**digit,
    st.integers(0, 3),
    st.integers(0, 9),
    st.integers(0, 8),
)
events = st.lists(st.tuples(st.integers(0, 4), times), min_size=12, max_size=40)


def sorted_by_hand(users, ticks):
    """By user, in order of their first row: the rows, oldest first, ties as in the log."""
    firsts = list(dict.fromkeys(users))
    return sorted(range(len(users)), key=lambda row: (firsts.index(users[row]), ticks[row], row))


@pytest.mark.parametrize("layout", TIME_LAYOUTS, ids=[layout.name for layout in TIME_LAYOUTS])
@settings
@hypothesis.given(events)
def test_records_are_in_the_order_of_the_exact_times(layout, rows):
    # Who is there once is not kept.
    rows = [*rows, *((user, START) for user in dict.fromkeys(user for user, _ in rows))]
    users = [f"u{user}" for user, _ in rows]
    ticks = [tick // layout.step * layout.step for _, tick in rows]
    items = [f"i{row:03}" for row in range(len(rows))]
    with tempfile.TemporaryDirectory() as folder:
        raw = sources.load(layout.write(Path(folder), users, items, ticks))
        log = order_in_memory(raw, BadRows(), AS_IT_IS, Path(folder))
    expected = sorted_by_hand(users, ticks)
    assert log.items["raw_item_id"].gather(log.columns["item"]).to_list() == [
        items[row] for row in expected
    ]
    assert log.ticks.tolist() == [ticks[row] for row in expected]
    assert log.columns["time"].tolist() == [ticks[row] // TICKS_PER_SECOND for row in expected]


def test_clicks_within_a_second_of_an_unsorted_log_come_in_their_order(tmp_path):
    # 60 users, a click every 300 ms.
    rows = [
        (f"u{user}", f"i{step}", START // 10**6 + user * 1000 + step * 300)
        for user in range(60)
        for step in range(8)
    ]
    shuffled = [rows[row] for row in np.random.default_rng(0).permutation(len(rows))]
    frame = pl.DataFrame(shuffled, schema=["user", "item", "time"], orient="row")
    frame.write_csv(tmp_path / "log.csv")
    source = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv", "time_unit": "ms"}
    prepare({"source": source, "split": "leave_one_out"}, tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    assert prepared.raw_item_ids == [f"i{step}" for step in range(8)]
    assert prepared.columns["item"].tolist() == list(range(8)) * 60
    assert prepared.targets("test").tolist() == [7] * 60
    assert prepared.targets("valid").tolist() == [6] * 60


def test_retail_rocket_s_basket_fills_before_it_is_bought(tmp_path):
    (tmp_path / "events.csv").write_text(
        "timestamp,visitorid,event,itemid,transactionid\n"
        "1433221332900,7,transaction,1,5\n1433221332500,7,addtocart,1,\n1433221332100,7,view,1,\n"
    )
    (tmp_path / "item_properties_part1.csv").write_text(
        "timestamp,itemid,property,value\n1433221332002,1,brand,new\n1433221332001,1,brand,old\n"
    )
    source = {"name": "retailrocket", "folder": str(tmp_path), "categories": ""}
    source |= {"attributes": "brand"}
    manifest = prepare({"source": source, "split": "leave_one_out"}, tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    names = [manifest["event_types"][event] for event in prepared.columns["event"]]
    assert names == ["view", "addtocart", "transaction"]
    assert prepared.items["attributes"].to_list() == [["brand=new"]]
    assert prepared.columns["time"].tolist() == [1433221332] * 3


def test_a_split_by_time_parts_moments_of_one_second(tmp_path):
    rows = [("a", "x", "1.25"), ("b", "x", "1.5"), ("a", "y", "1.75"), ("b", "y", "1.5000001")]
    frame = pl.DataFrame(rows[::-1], schema=["user", "item", "time"], orient="row")
    frame.write_csv(tmp_path / "log.csv")
    source = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv"}
    split = {"name": "global_time", "timestamps": [1.5000001, 1.75]}
    manifest = prepare({"source": source, "split": split}, tmp_path / "prepared")
    counts = manifest["counts"]["split"]
    assert (counts["valid_time"], counts["test_time"]) == (1.5000001, 1.75)
    prepared = Prepared.load(tmp_path / "prepared")
    # "b" comes first in the log.
    assert prepared.train_sequences.tolist() == [[0, 0, 1], [1, 2, 3]]
    assert prepared.views("valid").tolist() == [[0, 0, 1]]
    assert prepared.views("test").tolist() == [[1, 2, 3]]
    split = {"name": "global_time", "fractions": [0.5, 0.25, 0.25]}
    prepare({"source": source, "split": split}, tmp_path / "by_fractions")
    for name in ("valid", "test"):
        np.testing.assert_array_equal(
            Prepared.load(tmp_path / "by_fractions").views(name), prepared.views(name)
        )


# Any place of the point among 24 digits, and whole numbers.
numbers = st.builds(
    lambda digits, point, exponent: (
        f"{digits[:point]}.{digits[point:]}" + (f"e{exponent}" if exponent else "")
    ),
    st.integers(0, 10**24 - 1).map(lambda number: f"{number:024}"),
    st.integers(0, 24),
    st.just(0) | st.integers(-12, 12),
) | st.integers(-1, 10**20).map(str)


@pytest.mark.parametrize("unit", UNITS)
@hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)
@hypothesis.given(st.lists(numbers, min_size=20, max_size=60))
def test_a_number_in_text_is_read_as_exactly_as_it_is_written(unit, texts):
    table = type("Table", (), {"name": "log", "place": "line"})
    rows = Rows(pl.DataFrame({"time": texts}), np.arange(len(texts)))
    checked = Checked(table, rows)
    to_ticks(checked, "time", unit)
    expected = []
    for line, text in enumerate(texts):
        mantissa, _, exponent = text.lower().partition("e")
        seconds = Fraction(mantissa) * Fraction(10) ** int(exponent or 0) / UNITS[unit]
        ticks = seconds * TICKS_PER_SECOND // 1
        others = [seconds * UNITS[unit] // 1 / other for other in UNITS.values()]
        in_another = any(
            100_000_000 <= other < 4_133_980_800
            for other, scale in zip(others, UNITS.values(), strict=True)
            if scale != UNITS[unit]
        )
        if 0 <= seconds < 4_133_980_800 and not in_another:
            expected.append((line, ticks))
    found = zip(checked.line.tolist(), checked.frame["time"].to_list(), strict=True)
    assert list(found) == expected
