import csv
import json

import numpy as np
import pytest

from pipelines import sources
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared

HEADER = [
    "user_id",
    "history_item_title",
    "item_title",
    "history_item_id",
    "item_id",
    "history_item_sid",
    "item_sid",
]


def sid(item):
    return f"<a_{item}><b_0>"


def row(user, history, target):
    return {
        "user_id": user,
        "history_item_title": str([f"Title, {item}" for item in history]),
        "item_title": f"Title, {target}",
        "history_item_id": str(history),
        "item_id": target,
        "history_item_sid": str([sid(item) for item in history]),
        "item_sid": sid(target),
    }


def write(folder, rows, num_items=20):
    for split in ("train", "valid", "test"):
        (folder / split).mkdir(exist_ok=True)
        with (folder / split / "set.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, HEADER)
            writer.writeheader()
            writer.writerows(rows[split])
    (folder / "index").mkdir(exist_ok=True)
    items = {
        str(item): {
            "title": f"Title, {item}",
            "description": str([f"First &amp; {item}", ""]),
            "brand": "Acme",
            "categories": "",
        }
        for item in range(num_items)
    }
    (folder / "index" / "set.item.json").write_text(json.dumps(items))
    index = {str(item): [f"<a_{item}>", "<b_0>"] for item in range(num_items)}
    (folder / "index" / "set.index.json").write_text(json.dumps(index))


@pytest.fixture
def rows():
    return {
        "train": [row("ann", [1], 2), row("bob", [5], 6), row("ann", [1, 2], 2)],
        "valid": [row("ann", [1, 2, 2], 3), row("cid", [7], 8)],
        "test": [row("ann", [2, 2, 3], 4), row("dan", [9, 10], 11)],
    }


def load(folder, **fields):
    return sources.load({"name": "minionerec", "folder": str(folder), **fields})


def items_of(raw, ranges):
    item = raw.interactions["item"].to_numpy()
    return [item[start:stop].astype(int).tolist() for start, stop in ranges]


def views_of(raw, views):
    item = raw.interactions["item"].to_numpy().astype(int)
    user = raw.interactions["user"].to_list()
    return [(user[stop], item[start:stop].tolist(), int(item[stop])) for start, stop in views]


def test_rows_of_a_user_merge_into_one_timeline(tmp_path, rows):
    write(tmp_path, rows)
    raw = load(tmp_path)
    timelines = raw.interactions.group_by("user", maintain_order=True).agg("item").rows()
    assert timelines == [
        ("ann", ["1", "2", "2", "3", "4"]),
        ("bob", ["5", "6"]),
        ("cid", ["7", "8"]),
        ("dan", ["9", "10", "11"]),
    ]
    assert items_of(raw, raw.given_split.train_sequences) == [[1, 2, 2], [5, 6]]
    assert views_of(raw, raw.given_split.valid) == [("ann", [1, 2, 2], 3), ("cid", [7], 8)]
    assert views_of(raw, raw.given_split.test) == [("ann", [2, 2, 3], 4), ("dan", [9, 10], 11)]


def test_histories_of_held_out_rows_train_only_where_asked(tmp_path, rows):
    write(tmp_path, rows)
    raw = load(tmp_path, train_on_context=True)
    assert items_of(raw, raw.given_split.train_sequences) == [[1, 2, 2], [5, 6], [7], [9, 10]]


def test_a_gap_begins_a_new_segment_and_an_overlap_is_stored_once(tmp_path, rows):
    rows["train"] = [row("ann", [1], 2), row("ann", [8, 9], 10), row("ann", [9, 10, 11], 12)]
    rows["valid"] = [row("ann", [12], 13)]
    write(tmp_path, rows)
    raw = load(tmp_path)
    assert items_of(raw, raw.given_split.train_sequences) == [[1, 2], [8, 9, 10, 11, 12]]
    assert views_of(raw, raw.given_split.valid) == [("ann", [12], 13)]


def test_sliding_histories_of_random_users_give_back_each_interaction_once(tmp_path):
    rng = np.random.default_rng(0)
    rows = {"train": [], "valid": [], "test": []}
    logs = {}
    for user in range(30):
        log = rng.integers(0, 20, size=rng.integers(4, 25)).tolist()
        logs[f"u{user}"] = log
        for stop in range(1, len(log)):
            split = "test" if stop == len(log) - 1 else "valid" if stop == len(log) - 2 else "train"
            rows[split].append(row(f"u{user}", log[max(0, stop - 10) : stop], log[stop]))
    write(tmp_path, rows)
    raw = load(tmp_path)
    timelines = dict(raw.interactions.group_by("user", maintain_order=True).agg("item").rows())
    assert {user: [int(i) for i in log] for user, log in timelines.items()} == logs
    assert items_of(raw, raw.given_split.train_sequences) == [log[:-2] for log in logs.values()]


def test_text_says_title_brand_and_description(tmp_path, rows):
    write(tmp_path, rows)
    item = load(tmp_path).items.row(3, named=True)
    assert item["title"] == "Title, 3"
    assert item["text"] == "Title, 3\nAcme\nFirst &amp; 3"
    assert item["attributes"] == ["brand=Acme"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("history_item_id", "[1, 2", r"set.csv, data row 1: history_item_id is '\[1, 2'"),
        ("history_item_id", "__import__('os')", "it must be a list such as"),
        ("history_item_id", "[]", "history_item_id is empty"),
        ("history_item_id", "[1, 2]", r"history_item_title has 3 entries, .* has 2"),
        ("history_item_sid", "['x', 'y', 'z']", r"gives item '1' the SID 'x'; the index says"),
        ("item_sid", "<a_9><b_0>", r"item_sid gives item '3' the SID '<a_9><b_0>'"),
        ("item_id", "", "item_id is empty"),
        ("user_id", "", "user_id is empty"),
    ],
)
def test_a_wrong_row_is_an_error_that_names_row_and_field(tmp_path, rows, field, value, message):
    rows["valid"][0][field] = value
    write(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_an_item_that_the_catalogue_lacks_is_an_error(tmp_path, rows):
    write(tmp_path, rows, num_items=11)
    (tmp_path / "index" / "set.index.json").write_text(
        json.dumps({str(item): [f"<a_{item}>", "<b_0>"] for item in range(20)})
    )
    with pytest.raises(ValueError, match=r"data row 2: item_id has item '11', which the catalogue"):
        load(tmp_path)


def test_missing_columns_and_files_are_errors(tmp_path, rows):
    write(tmp_path, rows)
    (tmp_path / "test" / "set.csv").write_text("user_id,item_id\nann,3\n")
    with pytest.raises(ValueError, match="no column 'history_item_id'"):
        load(tmp_path)
    (tmp_path / "test" / "other.csv").write_text("")
    with pytest.raises(ValueError, match=r"exactly one file .* found other.csv, set.csv"):
        load(tmp_path)
    with pytest.raises(ValueError, match="the file holds a header but no rows"):
        (tmp_path / "test" / "set.csv").write_text("user_id,item_id,history_item_id\n")
        load(tmp_path, test="test/set.csv")
    with pytest.raises(ValueError, match="not a CSV file that can be read"):
        load(tmp_path, test="test/other.csv")


def test_real_industrial_rows_come_back_as_views(real_data, tmp_path):
    source = {"name": "minionerec", "folder": str(real_data / "amazon_industrial")}
    manifest = prepare({"source": source, "split": "as_given"}, tmp_path / "prepared")
    counts = manifest["counts"]
    assert counts["split"]["train_views"] == counts["read"]["train_rows"] == 10393
    assert counts["split"]["valid_views"] == 4532
    assert counts["split"]["test_views"] == 4533
    assert counts["prepared"]["items"] == 3686
    prepared = Prepared.load(tmp_path / "prepared")
    path = next((real_data / "amazon_industrial" / "test").glob("*.csv"))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    item = prepared.columns["item"]
    names = prepared.raw_item_ids
    for given_row, (_, start, stop) in list(zip(rows, prepared.views("test"), strict=True))[::50]:
        assert str([int(names[i]) for i in item[start:stop]]) == given_row["history_item_id"]
        assert names[item[stop]] == given_row["item_id"]
