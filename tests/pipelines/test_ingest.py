import dataclasses
import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.prepare.event_order import event_order
from pipelines.prepare.ids import IdCodes
from pipelines.prepare.ingest import keep, read_log
from pipelines.prepare.kcore import k_core
from pipelines.prepare.prepare import prepare
from pipelines.tables.ahead import ahead
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import ITEM_SCHEMA, RawDataset

USERS = ["7", "ann", "7", "-3", "bob", "ann", str(2**40), "7", "0", "bob", "9", "9"]
ITEMS = ["b", "2", "10", "b", "2", "a", "10", "2", "b", "b", "c", "2"]


@dataclasses.dataclass(frozen=True)
class Rows:
    """A part whose chunks hold whole numbers as Int64 where all of a chunk's ids are such."""

    users: list[str]
    items: list[str]
    first: int = 0
    chunk: int = 100
    name: str = "rows"

    def chunks(self, bad_rows):
        def ids(values):
            numbers = all(value.lstrip("-").isdigit() for value in values)
            return pl.Series([int(value) for value in values] if numbers else values)

        for start in range(0, len(self.users), self.chunk):
            stop = min(start + self.chunk, len(self.users))
            yield pl.DataFrame(
                {
                    "user": ids(self.users[start:stop]),
                    "item": ids(self.items[start:stop]),
                    "time": np.arange(start, stop) + self.first,
                    "event": np.zeros(stop - start, np.int32),
                    "line": np.arange(start, stop) + 1,
                }
            )


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunks_and_parts_do_not_change_what_is_read(chunk):
    parts = (Rows(USERS[:7], ITEMS[:7], 0, chunk), Rows(USERS[7:], ITEMS[7:], 7, chunk))
    log = read_log(RawDataset(parts, None), BadRows())
    assert log.users.to_list() == list(dict.fromkeys(USERS))
    assert log.items["raw_item_id"].to_list() == sorted(set(ITEMS))
    assert log.users.gather(log.user).to_list() == USERS
    assert log.items["raw_item_id"].gather(log.item).to_list() == ITEMS
    assert log.time.tolist() == list(range(len(USERS)))
    assert {name: getattr(log, name).dtype for name in ("user", "item", "time", "event")} == {
        "user": np.int32,
        "item": np.int32,
        "time": np.int64,
        "event": np.int32,
    }


def test_items_are_numbered_as_the_catalogue_lists_them():
    items = pl.DataFrame([(item, "", "", []) for item in "cba"], ITEM_SCHEMA, orient="row")
    log = read_log(RawDataset((Rows(["u", "v"], ["a", "c"]),), items), BadRows())
    assert log.item.tolist() == [2, 0]


def test_integers_and_their_text_are_one_id_even_far_apart():
    codes = IdCodes()
    first = codes.encode(pl.Series([5, 10**18, -4, 5]))
    second = codes.encode(pl.Series(["5", "-4", "x"]))
    third = codes.encode(pl.Series([-4, 10**18, 7]))
    names = codes.names().to_list()
    assert [names[code] for code in [*first, *second, *third]] == [
        *("5", str(10**18), "-4", "5"),
        *("5", "-4", "x"),
        *("-4", str(10**18), "7"),
    ]
    assert len(codes) == len(set(names)) == 5


def test_a_growing_range_of_integers_keeps_its_codes():
    codes, seen = IdCodes(), []
    for values in ([100], [100, 90], [5000, 90], [-70_000, 100], [80_000, 5000]):
        seen += zip(values, codes.encode(pl.Series(values)).tolist(), strict=True)
    names = codes.names().to_list()
    assert all(names[code] == str(value) for value, code in seen)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(-3, 3), st.integers(-2, 2)),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([(1, 0), (10**9, 10**6), (10**18, 1), (2**61, 0), (2**61, 1)]),
)
def test_events_come_by_user_and_time_as_lexsort_puts_them(rows, scales):
    user, coarse, fine = np.array(rows).T
    user = np.unique(user, return_inverse=True)[1].astype(np.int32)
    time = coarse.astype(np.int64) * scales[0] + fine * scales[1]
    order, offsets = event_order(user, time, user.max() + 1)
    np.testing.assert_array_equal(order, np.lexsort((time, user)))
    np.testing.assert_array_equal(np.diff(offsets), np.bincount(user))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60),
    st.integers(1, 3),
)
def test_the_k_core_that_is_kept_is_numbered_by_first_event(rows, k):
    users, items = ([str(value) for value in column] for column in zip(*rows, strict=True))
    log = read_log(RawDataset((Rows(users, items),), None), BadRows())
    try:
        mask = k_core(log.user, log.item, k)
    except ValueError:
        return
    left = keep(log, mask, drop_items=True)
    expected = list(itertools.compress(users, mask))
    assert left.users.to_list() == list(dict.fromkeys(expected))
    assert left.users.gather(left.user).to_list() == expected
    assert left.items["raw_item_id"].gather(left.item).to_list() == list(
        itertools.compress(items, mask)
    )
    assert np.bincount(left.user).min() >= k
    assert np.bincount(left.item, minlength=len(left.items)).min() >= k


def test_an_iterator_made_ahead_gives_all_elements_and_then_its_error():
    def elements():
        yield from range(5)
        raise ValueError("the sixth")

    seen = []
    with pytest.raises(ValueError, match="the sixth"), ahead(elements) as iterator:
        for element in iterator:
            seen.append(element)
    assert seen == [0, 1, 2, 3, 4]


def test_who_leaves_early_leaves_no_thread_waiting():
    made = []

    def elements():
        for number in itertools.count():
            made.append(number)
            yield number

    with ahead(elements, size=2) as iterator:
        assert next(iterator) == 0
    count = len(made)
    assert count <= 5
    assert len(made) == count


@pytest.mark.parametrize(
    ("items", "listed", "message"),
    [
        (["42", "7"], ["0042", "0007", "9"], "2 of 2 .* leading zeros .*, as '0042' for '42'"),
        (["0042", "x"], ["42"], "1 of 2 .* leading zeros are taken off, as '42' for '0042'"),
        (["42.0", "x"], ["42"], "1 of 2 .* '.0' is taken off the end, as '42' for '42.0'"),
        (["42"], ["42.0"], "as '42.0' for '42'"),
        (["'a'", '"b"'], ["a", "b"], "2 of 2 .* quotes around them .*, as 'a' for \"'a'\""),
        (["a\u00a0"], ["a"], "1 of 1 .* spaces around them"),
        (["b00X"], ["B00x"], "letters are made small, as 'B00x' for 'b00X'"),
        (['"0042.0"'], ["42"], "'.0', quotes, spaces and case are passed over, as '42' for"),
        (["a"], ["b"], "lacks; add it to the catalogue"),
        (["0"], ["00", "x"], "as '00' for '0'"),
    ],
)
def test_an_unknown_item_is_told_with_the_id_that_it_may_be(items, listed, message):
    catalogue = pl.DataFrame({"raw_item_id": listed, "title": "", "text": ""})
    catalogue = catalogue.with_columns(attributes=pl.lit([], pl.List(pl.String)))
    raw = RawDataset((Rows(["u"] * len(items), items),), catalogue.cast(ITEM_SCHEMA))
    with pytest.raises(ValueError, match=f"which the catalogue lacks; .*{message}|{message}"):
        read_log(raw, BadRows("error"))
    bad_rows = BadRows("skip")
    with pytest.raises(ValueError, match=f"no interactions of {len(items)} rows: .*{message}"):
        read_log(raw, bad_rows)
    assert bad_rows.counts == {"unknown_item": len(items)}


@pytest.mark.parametrize("k_core", [0, 5])
def test_where_nothing_is_left_all_that_is_known_is_said(tmp_path, k_core):
    (tmp_path / "log.csv").write_text(
        "user,item,time,rating\na,x,1,5\nb,y,2,5\nc,z,3,1\nd,w,4,2\n,w,5,5\ne,q,soon,5\n"
    )
    source = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv"}
    source |= {"value": "rating", "min_value": 3}
    config = {"source": source, "split": "leave_one_out", "k_core": k_core, "on_bad_rows": "skip"}
    what = "k_core=5 leaves nothing of 2" if k_core else "all 2 users have one interaction"
    told = (
        r"left out: 2 below_min_value, 1 empty_id \(first: log.csv, line 6: .*\), 1 not_a_time "
        r"\(first: log.csv, line 7: 'time' is 'soon'"
    )
    with pytest.raises(ValueError, match=f"log.csv: {what}.*{told}"):
        prepare(config, tmp_path / "prepared")
    config["source"]["min_value"] = 6
    with pytest.raises(ValueError, match=r"no interactions of 6 rows: .* 4 below_min_value"):
        prepare(config, tmp_path / "prepared")
