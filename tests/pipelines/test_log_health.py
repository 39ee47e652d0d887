"""What is done to a log before it is split, and what is counted, against plain Python."""

import datetime
import itertools
import json
from collections import Counter

import numpy as np
import polars as pl
import pytest

from pipelines import sources
from pipelines.prepare.kcore import core_sizes
from pipelines.prepare.log_times import LogTimes
from pipelines.prepare.prepare import prepare
from pipelines.prepare.previous import blocks, previous_equal, targets_in_history
from pipelines.prepare.ties import tied_targets, user_keys
from pipelines.prepared import Prepared
from pipelines.tables.interactions import (
    INTERACTION_SCHEMA,
    TICKS_PER_SECOND,
    FramePart,
    GivenSplit,
    RawDataset,
)
from tests.pipelines.test_kcore import naive_k_core

START = 1_400_000_000 * TICKS_PER_SECOND
DAY = 86_400 * TICKS_PER_SECOND


@pytest.fixture
def use_raw(monkeypatch):
    """Makes `prepare` see a log that a test made by hand."""

    def use(raw, **fields):
        monkeypatch.setattr(sources, "load", lambda config, bad_rows: raw)
        return {"source": {"name": "by hand"}, "split": "leave_one_out", **fields}

    return use


def raw_of(rows, **fields):
    """A log of rows (user, item, time, event)."""
    frame = pl.DataFrame(rows, schema=INTERACTION_SCHEMA, orient="row")
    fields.setdefault("event_types", ("view", "buy"))
    return RawDataset((FramePart(frame),), None, **fields)


def random_rows(random, size=60):
    """Few users, items and times, so that all meet; times lie within one second."""
    return [
        (
            f"u{random.integers(6)}",
            f"i{random.integers(7)}",
            START + int(random.integers(8)) * TICKS_PER_SECOND // 10,
            int(random.integers(2)),
        )
        for _ in range(size)
    ]


def plainly(rows, *, duplicates, k_core, time_from=None, time_to=None):
    """The same steps one row at a time: events of each user, in order, and what was counted."""
    inside = [row for row in rows if (time_from or 0) <= row[2] < (time_to or 2**62)]
    users = {}
    for place, row in enumerate(inside):
        users.setdefault(row[0], []).append((row[2], place, row))
    exact, kept = 0, []
    for events in users.values():
        seen, items, last = set(), set(), None
        for _, place, row in sorted(events):
            goes = {
                "keep": False,
                "drop_exact": row in seen,
                "drop_consecutive": row[1] == last,
                "first": row[1] in items,
            }
            exact += row in seen
            seen.add(row)
            items.add(row[1])
            last = row[1]
            if not goes[duplicates]:
                kept.append((place, row))
    kept.sort()
    left = naive_k_core([row[:2] for _, row in kept], *k_core)
    ordered = {}
    for place, row in (kept[number] for number in left):
        ordered.setdefault(row[0], []).append((row[2], place, row))
    events = {user: [row for *_, row in sorted(found)] for user, found in ordered.items()}
    return events, {"exact": exact, "outside": len(rows) - len(inside), "deduplicated": len(kept)}


def views_of(events):
    """What leave-one-out makes of users' events: (events, place of the target) a split."""
    long = [rows for rows in events.values() if len(rows) >= 3]
    return {
        "valid": [(rows, len(rows) - 2) for rows in long],
        "test": [(rows, len(rows) - 1) for rows in long],
    }


def is_tied(rows, place):
    times = [row[2] for row in rows]
    return times[place] in times[place - 1 : place] + times[place + 1 : place + 2]


@pytest.mark.parametrize("duplicates", ["keep", "drop_exact", "drop_consecutive", "first"])
def test_records_and_counts_are_those_of_plain_python(tmp_path, use_raw, duplicates):
    random = np.random.default_rng(len(duplicates))
    second = datetime.datetime.fromtimestamp(START // TICKS_PER_SECOND, datetime.UTC)
    for number in range(8):
        rows = random_rows(random)
        k_core = [(2, 2), (2, 3), (3, 2), (4, 1)][number % 4]
        window = {}
        if number % 2:
            window = {"time_from": START + TICKS_PER_SECOND // 10}
            window["time_to"] = START + 7 * TICKS_PER_SECOND // 10
        fields = {
            field: (second + datetime.timedelta(milliseconds=milliseconds)).isoformat()
            for field, milliseconds in zip(window, (100, 700), strict=False)
        }
        expected, counted = plainly(rows, duplicates=duplicates, k_core=k_core, **window)
        assert expected
        config = use_raw(raw_of(rows), duplicates=duplicates, k_core=k_core, **fields)
        manifest = prepare(config, tmp_path / str(number))
        found = Prepared.load(tmp_path / str(number))
        users = found.users["raw_user_id"].to_list()
        records = {
            user: [
                (found.raw_item_ids[found.columns["item"][place]], found.columns["event"][place])
                for place in range(found.offsets[which], found.offsets[which + 1])
            ]
            for which, user in enumerate(users)
        }
        assert records == {
            user: [(row[1], row[3]) for row in events] for user, events in expected.items()
        }
        assert users == list(records)
        health = manifest["health"]
        assert health["times"]["before"] + health["times"]["after"] == counted["outside"]
        inside = len(rows) - counted["outside"]
        assert health["read"] == inside
        assert health["duplicates"] == {
            "mode": duplicates,
            "read": counted["exact"],
            "dropped": inside - counted["deduplicated"],
        }
        for split, views in views_of(expected).items():
            assert health["targets"][split] == {
                "views": len(views),
                "tied": sum(is_tied(*view) for view in views),
                "in_history": sum(
                    rows[place][1] in [row[1] for row in rows[:place]] for rows, place in views
                ),
            }
        assert health["repeats"] == sum(
            len(events) - len({row[1] for row in events}) for events in expected.values()
        )
        left = sum(map(len, expected.values()))
        assert health["interactions"] == left
        dropped = health["k_core"]["dropped"]
        assert dropped["interactions"] == counted["deduplicated"] - left
        assert health["k_core"]["k"] == list(k_core)


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def test_shuffled_ties_do_not_know_the_order_of_rows(tmp_path, use_raw):
    random = np.random.default_rng(5)
    targets = []
    for number in range(6):
        rows = random_rows(random, 80)
        fields = {
            "ties": "shuffled",
            "k_core": [0, 2, (2, 3)][number % 3],
            "duplicates": ["keep", "first", "drop_consecutive"][number % 3],
            "on_bad_rows": "skip",
        }
        folders = [tmp_path / f"{number}-{turn}" for turn in range(3)]
        orders = (sorted(rows), rows, [rows[place] for place in random.permutation(len(rows))])
        found = [
            prepare(use_raw(raw_of(order), **fields), folder)
            for order, folder in zip(orders, folders, strict=True)
        ]
        assert files_of(folders[1]) == files_of(folders[0]) == files_of(folders[2])
        assert found[0]["health"] == found[1]["health"] == found[2]["health"]
        prepared = Prepared.load(folders[0])
        assert prepared.users["raw_user_id"].is_sorted()
        for start, stop in zip(prepared.offsets[:-1], prepared.offsets[1:], strict=True):
            assert (np.diff(prepared.columns["time"][start:stop]) >= 0).all()
        targets.append(prepared.targets("test"))
    assert len({tuple(of_log) for of_log in targets}) == len(targets)


def test_every_tied_event_is_as_likely_to_be_last(tmp_path, use_raw):
    # 3,000 users with the same four events at one time: the lot of one is not that of another.
    rows = [(f"u{user}", f"i{item}", START, 0) for item in range(4) for user in range(3000)]
    prepare(use_raw(raw_of(rows), ties="shuffled"), tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    last = Counter(prepared.targets("test").tolist())
    pairs = prepared.columns["item"].reshape(-1, 4)
    # Five standard deviations of a binomial's count with p = 1/4 and 1/24.
    assert all(abs(last[item] - 750) < 5 * (3000 * 3 / 16) ** 0.5 for item in range(4))
    orders = Counter(map(tuple, pairs.tolist()))
    assert len(orders) == 24
    assert all(abs(times - 125) < 5 * 125**0.5 for times in orders.values())


def test_the_log_decides_ties_unless_it_is_asked_not_to(tmp_path, use_raw):
    rows = [("u", item, START, 0) for item in "dacb"] + [("u", "e", START + 1, 0)]
    prepare(use_raw(raw_of(rows)), tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    assert [prepared.raw_item_ids[item] for item in prepared.columns["item"]] == list("dacbe")
    health = prepared.manifest["health"]
    # A nanosecond apart is no tie: the stored seconds do not tell, what is counted does.
    assert prepared.columns["time"].tolist() == [START // TICKS_PER_SECOND] * 5
    assert health["targets"]["valid"]["tied"] == 1
    assert health["targets"]["test"]["tied"] == 0


def test_keys_of_users_stay_the_same_and_differ():
    ids = ["", "u", "v", "uv", "vu", "ü", "🎈", "a" * 300, "0", "00", *map(str, range(5000))]
    keys = user_keys(pl.Series(ids))
    assert len(set(keys.tolist())) == len(set(ids))
    assert keys[1:3].tolist() == user_keys(pl.Series(["u", "v"])).tolist()
    # Records of today and of next year must be the same.
    assert keys[:3].tolist() == KEYS


KEYS = [3911984118308197829, 10886281196343405610, 8658459665919087918]


@pytest.mark.parametrize("largest", [3, 2**31, 2**62])
def test_the_previous_equal_value_is_found(largest):
    random = np.random.default_rng(0)
    values = random.integers(0, 4, 200) * (largest // 3)
    expected = [
        max((before for before in range(place) if values[before] == value), default=-1)
        for place, value in enumerate(values)
    ]
    assert previous_equal(values).tolist() == expected
    assert previous_equal(values[:0]).tolist() == []


def test_blocks_are_whole_groups():
    offsets = np.array([0, 3, 4, 10, 11, 12, 12, 14])
    assert list(blocks(offsets, 4)) == [(0, 2), (2, 3), (3, 7)]
    assert list(blocks(np.array([0]))) == []


def test_targets_in_a_history_that_begins_late_or_overlaps_are_counted(monkeypatch):
    monkeypatch.setattr("pipelines.prepare.previous._BLOCK", 7)  # Blocks end between users.
    random = np.random.default_rng(1)
    for _ in range(20):
        lengths = random.integers(1, 12, 9)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        item = random.integers(0, 6, offsets[-1]).astype(np.int32)
        time = np.sort(random.integers(0, 5, offsets[-1]))
        views = []
        for _ in range(40):
            user = random.integers(9)
            start, stop = np.sort(random.integers(offsets[user], offsets[user + 1], 2))
            if start < stop:
                views.append((user, start, stop))
        views = np.array(views, np.int64).reshape(-1, 3)
        repeats, hidden = targets_in_history(item, offsets, {"x": views, "none": views[:0]})
        assert hidden == {
            "x": sum(item[stop] in item[start:stop] for _, start, stop in views),
            "none": 0,
        }
        assert repeats == len(item) - sum(
            len(set(item[a:b].tolist())) for a, b in itertools.pairwise(offsets)
        )
        tied = [
            time[stop] == time[stop - 1]
            or (stop + 1 < offsets[user + 1] and time[stop] == time[stop + 1])
            for user, _, stop in views
        ]
        assert tied_targets(time, offsets, views).tolist() == tied


def test_the_next_cores_are_those_of_plain_python():
    random = np.random.default_rng(2)
    for _ in range(40):
        pairs = sorted(
            (int(user), int(7 * share**2))
            for user, share in zip(random.integers(0, 7, 60), random.random(60), strict=True)
        )
        user, item = np.array(pairs).T
        users, lengths = np.unique(user, return_counts=True)
        del users
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        first = random.integers(0, 5, 2)
        cores = [tuple(int(k) + step for k in first) for step in range(3)]
        expected = []
        for ks in cores:
            left = [pairs[row] for row in naive_k_core(pairs, *ks)]
            expected.append(
                {
                    "users": len({user for user, _ in left}),
                    "items": len({item for _, item in left}) if ks[1] else 9,
                    "interactions": len(left),
                }
            )
        if not cores[0][1]:  # Of no least number, items that nobody has are left.
            expected[0]["items"] = 9
        assert core_sizes(item, offsets, 9, cores) == expected


def test_times_are_counted_in_any_order_and_a_stray_row_is_seen():
    random = np.random.default_rng(3)
    time = START + random.integers(0, 90 * DAY, 5000)
    stray = 2_114_380_800 * TICKS_PER_SECOND  # 2037-01-01
    time[77] = stray
    whole, one, other = LogTimes(), LogTimes(), LogTimes()
    whole.add(time)
    one.add(time[:3000])
    other.add(time[3000:])
    other.add(time[:0])
    merged = LogTimes()
    for part in (other, LogTimes(), one):
        merged.merge(json.loads(json.dumps(part.to_json())))
    assert merged.report() == whole.report()
    ordered = np.sort(time)
    day = [str(np.datetime64(int(ordered[end]), "ns"))[:10] for end in (5, -6)]
    earliest = str(np.datetime64(int(ordered[0]), "ns"))[:19] + "Z"
    assert whole.report() == {"earliest": earliest, "latest": "2037-01-01T00:00:00Z", "bulk": day}
    few = LogTimes()
    few.add(np.array([START, stray, START + 1]))
    assert few.report()["bulk"] == ["2014-05-13", "2014-05-13"]
    two = LogTimes()
    two.add(np.array([START, stray]))
    assert two.report()["bulk"] is None


def test_a_stray_row_is_a_target_until_time_to_leaves_it_out(tmp_path, use_raw):
    rows = [(f"u{user}", f"i{item}", START + item, 0) for user in range(3) for item in range(4)]
    rows.append(("u1", "i9", 2_114_380_800 * TICKS_PER_SECOND, 0))
    config = use_raw(raw_of(rows))
    prepare(config, tmp_path / "with")
    prepared = Prepared.load(tmp_path / "with")
    assert prepared.raw_item_ids[prepared.targets("test")[1]] == "i9"
    assert prepared.manifest["health"]["times"]["latest"] == "2037-01-01T00:00:00Z"
    prepare({**config, "time_to": "2037-01-01"}, tmp_path / "without")
    without = Prepared.load(tmp_path / "without")
    assert without.raw_item_ids == ["i0", "i1", "i2", "i3"]
    assert without.manifest["counts"]["read"]["left_out_after_time_to"] == 1
    assert (without.manifest["health"]["times"]["before"], without.num_users) == (0, 3)


def test_a_log_without_times_has_none_to_tie(tmp_path, use_raw):
    rows = [("u", item, 0, 0) for item in "abab"]
    raw = raw_of(rows, has_times=False)
    health = prepare(use_raw(raw), tmp_path / "a")["health"]
    assert health["times"] is None
    assert health["duplicates"]["read"] is None
    assert health["targets"]["test"] == {"views": 1, "tied": None, "in_history": 1}
    first = prepare(use_raw(raw, duplicates="first", k_core=(2, 0)), tmp_path / "b")
    assert first["health"]["interactions"] == 2
    assert first["counts"]["after_duplicates"]["interactions"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ties": "random"}, "config.ties is 'random'; it must be one of log, shuffled"),
        ({"ties": None}, "config.ties is None"),
        ({"duplicates": "drop"}, "config.duplicates is 'drop'; it must be one of keep, drop_ex"),
        ({"duplicates": ["keep"]}, r"config.duplicates is \['keep'\]"),
        ({"time_from": "yesterday"}, "config.time_from is 'yesterday'; it must be a date such as"),
        ({"time_to": 5}, "config.time_to is 5; it must be a date such as"),
        ({"time_to": "0001-01-01"}, "must lie in the years 1970 to 2200"),
        ({"time_from": "0001-01-01T00:00+23:59"}, "must lie in the years 1970 to 2200"),
        ({"time_from": "2014-01-02", "time_to": "2014-01-02T00:00Z"}, "must be earlier"),
        ({"k_core": (5,)}, r"config.k_core is \[5\]; it must be 0 \(off\) or a positive integer"),
        ({"k_core": (5, 1, 1)}, r"config.k_core is \[5, 1, 1\]"),
        ({"k_core": (5, -1)}, r"config.k_core is \[5, -1\]"),
        ({"k_core": True}, "config.k_core is True"),
        ({"k_core": "5,10"}, "config.k_core is '5,10'; .* such as 5,10"),
        ({"k_core": 2.0}, "config.k_core is 2.0"),
        ({"k_core": (2, 900)}, "k_core=2,900 leaves nothing of 12"),
        ({"split": "as_given", "k_core": (0, 2)}, "taken as it is; set k_core to 0"),
        ({"split": "as_given", "ties": "shuffled"}, "taken as it is; set ties to 'log'"),
        ({"split": "as_given", "duplicates": "first"}, "as it is; set duplicates to 'keep'"),
        ({"split": "as_given", "time_from": "2001-01-01"}, "as it is; set time_from to ''"),
        ({"split": "as_given", "time_to": "2100-01-01"}, "as it is; set time_to to ''"),
        ({"time_to": "2001-01-01"}, "no interactions"),
    ],
)
def test_a_wrong_option_is_an_error_and_writes_nothing(tmp_path, use_raw, change, message):
    rows = [(f"u{user}", f"i{item}", START + item, 0) for user in range(3) for item in range(4)]
    with pytest.raises(ValueError, match=message):
        prepare(use_raw(raw_of(rows), **change), tmp_path / "prepared")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"ties": "shuffled"},
        {"duplicates": "drop_exact"},
        {"time_from": "2001-01-01"},
        {"time_to": "2001-01-01"},
    ],
)
def test_what_compares_times_needs_some(tmp_path, use_raw, change):
    raw = raw_of([("u", item, 0, 0) for item in "abc"], has_times=False)
    with pytest.raises(ValueError, match=r"which compares times, but source 'by hand' has none"):
        prepare(use_raw(raw, **change), tmp_path / "prepared")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_brings_a_split_keeps_its_order(tmp_path, use_raw):
    none = np.zeros((0, 2), np.int64)
    given = GivenSplit(np.array([[0, 3]]), none, none)
    raw = raw_of([("u", item, START, 0) for item in "abc"], given_split=given)
    with pytest.raises(ValueError, match=r"ties is 'shuffled', but a source that brings a split"):
        prepare(use_raw(raw, ties="shuffled"), tmp_path / "prepared")
    health = prepare({**use_raw(raw), "split": "as_given"}, tmp_path / "prepared")["health"]
    assert health["k_core"] is None


def test_defaults_are_the_data_set_without_them(tmp_path, use_raw):
    rows = random_rows(np.random.default_rng(4))
    config = use_raw(raw_of(rows), k_core=2)
    plain = prepare(config, tmp_path / "a")
    said = {**config, "ties": "log", "duplicates": "keep", "time_from": "", "time_to": ""}
    assert prepare({**said, "k_core": (2, 2)}, tmp_path / "b") == plain
    others = [{"ties": "shuffled"}, {"duplicates": "first"}, {"time_to": "2100-01-01"}]
    marks = [prepare({**said, **other}, tmp_path / str(other))["fingerprint"] for other in others]
    assert len({plain["fingerprint"], *marks}) == 4


def test_items_alone_may_have_a_least_number(tmp_path, use_raw):
    rows = [("a", "x", START, 0), ("a", "y", START + 1, 0), ("b", "x", START + 2, 0)]
    rows += [("c", "x", START, 0), ("c", "z", START + 1, 0), ("c", "x", START + 3, 0)]
    config = use_raw(raw_of(rows), k_core=(1, 2), on_bad_rows="skip")
    manifest = prepare(config, tmp_path / "prepared")
    assert manifest["counts"]["after_k_core"] == {"users": 3, "items": 1, "interactions": 4}
    # Who is left with one event is a bad row, as without a k-core.
    assert manifest["skipped"]["single_interaction"]["rows"] == 2
    assert manifest["counts"]["prepared"] == {"users": 1, "items": 1, "interactions": 2}
    with pytest.raises(ValueError, match=r"user 'a' has one interaction \(2 users have\)"):
        prepare({**config, "on_bad_rows": "error"}, tmp_path / "other")
