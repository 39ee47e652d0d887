"""`source.columns`: columns of an item table that `items.parquet` keeps, whatever holds them."""

import json
import sqlite3

import polars as pl
import pytest

from pipelines import sources
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.sources.carried import typed
from tests.pipelines.source_layouts import csv_text

ROWS = [("u", item, time, "view") for time, item in enumerate("abcabc")]
# Nobody touched d; of b no price is known, of c no kind.
IDS, PRICES, KINDS, YEARS = "abcd", [9.5, None, 20.0, 3.0], ["x y", "z", None, "z"], [1, 2, 3, 4]
EXPECTED = {"kind": KINDS, "price": PRICES, "year": YEARS}
ITEMS = [
    {"item": item, "kind": kind, "price": price, "year": year}
    for item, kind, price, year in zip(IDS, KINDS, PRICES, YEARS, strict=True)
]


def log(folder, **fields):
    (folder / "log.csv").write_bytes(csv_text(["user", "item", "time", "event"], ROWS))
    return {"folder": str(folder), "interactions": "log.csv", "columns": "kind,price,year"} | fields


def csv(folder):
    rows = [["" if value is None else value for value in item.values()] for item in ITEMS]
    (folder / "items.csv").write_bytes(csv_text(ITEMS[0], rows))
    return log(folder, name="csv", catalogue="items.csv")


def jsonl(folder):
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return log(folder, name="csv", catalogue="items.jsonl")


def pylines(folder):
    (folder / "items.py").write_text("".join(f"{item!r}\n" for item in ITEMS))
    return log(folder, name="csv", catalogue="items.py", catalogue_format="pylines")


def parquet(folder):
    pl.DataFrame(ITEMS).write_parquet(folder / "items.parquet")
    return log(folder, name="csv", catalogue="items.parquet")


def sqlite(folder):
    with sqlite3.connect(folder / "log.db") as connection:
        connection.execute("CREATE TABLE log (user, item, time)")
        connection.executemany("INSERT INTO log VALUES (?, ?, ?)", [row[:3] for row in ROWS])
        connection.execute("CREATE TABLE items (item, kind, price, year)")
        rows = [tuple(item.values()) for item in ITEMS]
        connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", rows)
    connection.close()
    return log(folder, name="sqlite", interactions="log.db", table="log", catalogue_table="items")


def recbole(folder):
    lines = [("user_id:token", "item_id:token", "timestamp:float"), *(row[:3] for row in ROWS)]
    text = "".join("\t".join(map(str, line)) + "\n" for line in lines)
    (folder / "set.inter").write_text(text)
    rows = [["" if value is None else str(value) for value in item.values()] for item in ITEMS]
    header = ["item_id:token", "kind:token", "price:float", "year:float"]
    (folder / "set.item").write_text("".join("\t".join(row) + "\n" for row in [header, *rows]))
    return log(folder, name="recbole", interactions="set.inter", catalogue="set.item")


def retailrocket(folder):
    header = ["timestamp", "visitorid", "event", "itemid", "transactionid"]
    rows = [(time, user, event, item, "") for user, item, time, event in ROWS]
    (folder / "events.csv").write_bytes(csv_text(header, rows))
    header = ["timestamp", "itemid", "property", "value"]
    rows = [
        (step, item["item"], name, "older" if not step else item[name])
        for item in ITEMS
        for name in ("kind", "price", "year")
        if item[name] is not None
        for step in (0, 1)
    ]
    (folder / "properties.csv").write_bytes(csv_text(header, rows))
    return log(
        folder,
        name="retailrocket",
        interactions="events.csv",
        properties="properties.csv",
        categories="",
    )


def minionerec(folder):
    for name, history, target in (("train", "'a'", "b"), ("valid", "'a','b'", "c")):
        (folder / name).mkdir()
        row = ("u", f"[{history}]", target)
        data = csv_text(["user_id", "history_item_id", "item_id"], [row])
        (folder / name / "log.csv").write_bytes(data)
    (folder / "test").mkdir()
    data = csv_text(["user_id", "history_item_id", "item_id"], [("u", "['a','b','c']", "a")])
    (folder / "test" / "log.csv").write_bytes(data)
    (folder / "index").mkdir()
    entries = {
        item["item"]: {"title": "t"} | {name: item[name] for name in EXPECTED} for item in ITEMS
    }
    (folder / "index" / "x.item.json").write_text(json.dumps(entries))
    index = {item: ["<a_1>"] for item in entries}
    (folder / "index" / "x.index.json").write_text(json.dumps(index))
    return {"name": "minionerec", "folder": str(folder), "columns": ["kind", "price", "year"]}


@pytest.mark.parametrize(
    "write", [csv, jsonl, pylines, parquet, sqlite, recbole, retailrocket, minionerec]
)
def test_every_source_with_an_item_table_keeps_the_same_columns(tmp_path, write):
    (tmp_path / "log").mkdir()
    source = write(tmp_path / "log")
    split = "as_given" if write is minionerec else "leave_one_out"
    prepare({"source": source, "split": split}, tmp_path / "prepared")
    carried = Prepared.load(tmp_path / "prepared").carried
    assert dict(carried.schema) == {"kind": pl.String, "price": pl.Float64, "year": pl.Int64}
    assert carried.to_dict(as_series=False) == EXPECTED


def test_generated_items_have_colours_and_prices(tmp_path):
    source = {"name": "generated", "num_users": 20, "num_items": 200}
    plain = sources.load(source)
    carrying = sources.load(source | {"columns": "price,colour"})
    assert carrying.items.columns == [*plain.items.columns, "price", "colour"]
    assert plain.items.equals(carrying.items.drop("price", "colour"))
    assert carrying.items["price"].is_between(1, 1000).all()
    with pytest.raises(ValueError, match=r"source.columns names 'size', .* they have colour, pri"):
        sources.load(source | {"columns": "size"})


def test_items_that_leave_take_their_columns_along(tmp_path):
    config = {"source": csv(tmp_path), "split": "leave_one_out", "k_core": 2}
    prepare(config, tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    assert prepared.raw_item_ids == ["a", "b", "c"]
    assert prepared.carried["price"].to_list() == PRICES[:3]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", None, "-20", "0"], [1, None, -20, 0]),
        (["1", "2.50", "1e-3"], [1.0, 2.5, 0.001]),
        (["0.30000000000000004"], [0.1 + 0.2]),
        (["007", "12"], ["007", "12"]),
        (["1", "n/a"], ["1", "n/a"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["1e999"], ["1e999"]),
        ([None], [None]),
    ],
)
def test_a_column_holds_numbers_where_all_its_values_are(texts, expected):
    assert typed(pl.Series("x", texts, pl.String)).to_list() == expected


def two_values(folder):
    (folder / "items.jsonl").write_text('{"item": "a", "price": [1, 2]}\n')
    return log(folder, name="csv", catalogue="items.jsonl", columns="price")


def list_column(folder):
    pl.DataFrame({"item": ["a"], "price": [[1, 2]]}).write_parquet(folder / "items.parquet")
    return log(folder, name="csv", catalogue="items.parquet", columns="price")


def infinite(folder):
    frame = pl.DataFrame({"item": ["a", "b"], "price": [1.0, float("inf")]})
    frame.write_parquet(folder / "items.parquet")
    return log(folder, name="csv", catalogue="items.parquet", columns="price")


def sequence(folder):
    source = recbole(folder)
    path = folder / "set.item"
    path.write_text(path.read_text().replace("kind:token", "kind:token_seq"))
    return source


def nested(folder):
    source = minionerec(folder)
    path = folder / "index" / "x.item.json"
    path.write_text(path.read_text().replace('"x y"', '{"x": 1}'))
    return source


@pytest.mark.parametrize(
    ("write", "fields", "message"),
    [
        (csv, {"columns": "weight"}, r"items.csv: there is no column 'weight', .* it has 'item'"),
        (csv, {"columns": "item_id"}, r"items.csv: source.columns names 'item_id', but items.par"),
        (csv, {"columns": "text"}, r"items.csv: source.columns names 'text', but items.parquet"),
        (csv, {"attributes": "kind"}, r"items.csv: source.columns and source.attributes .* 'kind'"),
        (csv, {"catalogue": ""}, r"source.columns is .*, but source.catalogue names no file"),
        (two_values, {}, r"items.jsonl, line 1: 'price' is \[1, 2\]; it must be a text, a number"),
        (list_column, {}, r"items.parquet: column 'price' is of type List.*must hold text or num"),
        (infinite, {}, r"items.parquet, row 2: 'price' is inf; a number must be finite"),
        (sequence, {}, r"set.item: field 'kind' is of type 'token_seq'; it must be token or float"),
        (nested, {}, r"x.item.json: item 'a': 'kind' is \{'x': 1\}; .* a text or a number"),
        (minionerec, {"columns": "size"}, r"x.item.json: no item has the field 'size', .* 'price'"),
        (minionerec, {"columns": "title"}, r"x.item.json: source.columns names 'title', but items"),
        (retailrocket, {"columns": "size"}, r"properties.csv: no item has the property 'size'"),
        (retailrocket, {"columns": "text"}, r"properties.csv: source.columns names 'text', but"),
    ],
)
def test_what_cannot_be_kept_is_named(tmp_path, write, fields, message):
    source = write(tmp_path) | fields
    with pytest.raises(ValueError, match=message):
        sources.load(source)


def test_a_layout_without_an_item_table_refuses_the_field_by_name(tmp_path):
    (tmp_path / "log.txt").write_text("u 1 2 3\n")
    source = {"name": "sasrec", "folder": str(tmp_path), "interactions": "log.txt"}
    with pytest.raises(ValueError, match="source 'sasrec' has no field 'columns'"):
        sources.load(source | {"columns": "price"})


def test_no_columns_are_the_records_from_before_there_were_any(tmp_path):
    source = csv(tmp_path) | {"columns": ""}
    manifest = prepare({"source": source, "split": "leave_one_out"}, tmp_path / "prepared")
    del source["columns"]
    assert prepare({"source": source, "split": "leave_one_out"}, tmp_path / "prepared") == manifest
    assert Prepared.load(tmp_path / "prepared").carried.width == 0
