"""A value that says which rows count: the same rows, whichever format holds it."""

import json
import sqlite3

import polars as pl
import pytest

from pipelines import sources
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.tables.bad_rows import BadRows
from tests.pipelines.source_layouts import LAYOUTS

FIELDS = {"value": "rating", "min_value": 4.0}


def write(folder, name, ratings, **types):
    """A log in which row `n` is of user `n`, and its config; a rating is what `json` can hold."""
    rows = [
        {"user": f"u{at}", "item": "i", "time": at, "rating": r} for at, r in enumerate(ratings)
    ]
    path = folder / f"log.{name}"
    texts = [["" if value is None else str(value) for value in row.values()] for row in rows]
    if name == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name == "pylines":
        path.write_text("".join(f"{row!r}\n" for row in rows))
    elif name == "parquet":
        pl.DataFrame(rows, schema_overrides=types).write_parquet(path)
    elif name == "sqlite":
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE log (user, item, time, rating)")
            connection.executemany("INSERT INTO log VALUES (:user, :item, :time, :rating)", rows)
        connection.close()
    elif name == "recbole":
        head = ["user:token", "item:token", "time:float", "rating:float"]
        path.write_text("".join("\t".join(row) + "\n" for row in [head, *texts]))
    else:
        path.write_text("".join(",".join(row) + "\n" for row in [rows[0].keys(), *texts]))
    config = {"name": name, "folder": str(folder), "interactions": path.name}
    return config | ({"table": "log"} if name == "sqlite" else {})


def read(config, action="skip"):
    bad_rows = BadRows(action)
    raw = sources.load({"user": "user", "item": "item", "time": "time"} | config, bad_rows)
    users = [user for part in raw.parts for c in part.chunks(bad_rows) for user in c["user"]]
    return users, bad_rows


@pytest.mark.parametrize("name", ["csv", "jsonl", "pylines", "parquet", "sqlite", "recbole"])
@pytest.mark.parametrize(
    ("ratings", "kept"),
    [
        ([5, 3, 4, -4, 0], [0, 2]),
        ([5.0, 3.999999, 4.0, 4.5, 1e3], [0, 2, 3, 4]),
        (["5", "4.0", "3.9", " 4 ", "+4", ".5", "4e0", "1E+2", "4.", "-4"], [0, 1, 3, 4, 6, 7, 8]),
    ],
)
def test_only_rows_from_the_threshold_on_are_events(tmp_path, name, ratings, kept):
    users, bad_rows = read(write(tmp_path, name, ratings) | FIELDS, "error")
    assert users == [f"u{at}" for at in kept]
    assert bad_rows.left_out == {"below_min_value": len(ratings) - len(kept)}


@pytest.mark.parametrize("name", ["csv", "jsonl", "pylines", "parquet", "sqlite", "recbole"])
@pytest.mark.parametrize(
    "wrong", ["good", "", None, "nan", "inf", "1e999", "4,5", "0x5", "٥", "1_0", "5 stars"]
)
def test_what_is_no_number_is_a_bad_row(tmp_path, name, wrong):
    if name == "csv" and wrong == "4,5":
        wrong = '"4,5"'
    config = write(tmp_path, name, ["5", wrong, "4"]) | FIELDS
    users, bad_rows = read(config)
    assert users == ["u0", "u2"]
    assert bad_rows.counts == {"not_a_number": 1}
    line = {"csv": "line 3", "recbole": "line 3", "jsonl": "line 2", "pylines": "line 2"}.get(
        name, "row 2"
    )
    with pytest.raises(ValueError, match=rf"log.{name}, {line}: 'rating' is .*on_bad_rows"):
        read(config, "error")


def test_numbers_of_every_type_of_a_file_are_values(tmp_path):
    for dtype in (pl.Int8, pl.UInt64, pl.Float32, pl.Decimal(10, 2), pl.String, pl.Categorical):
        ratings = ["5", "3", "4"] if dtype in (pl.String, pl.Categorical) else [5, 3, 4]
        config = write(tmp_path, "parquet", ratings, rating=dtype) | FIELDS
        assert read(config, "error")[0] == ["u0", "u2"]
    config = write(tmp_path, "parquet", [5.0, float("nan"), float("inf")]) | FIELDS
    assert read(config)[1].counts == {"not_a_number": 2}
    config = write(tmp_path, "parquet", [True, False]) | FIELDS
    with pytest.raises(ValueError, match="'rating' is of type Boolean; it must hold numbers or"):
        read(config)
    config = write(tmp_path, "jsonl", [True, 5, [5], {"a": 5}]) | FIELDS
    users, bad_rows = read(config)
    assert users == ["u1"]
    assert bad_rows.counts == {"wrong_type": 3}


@pytest.mark.parametrize("name", ["csv", "jsonl", "pylines", "parquet", "sqlite"])
def test_a_rating_may_be_an_event_type_in_every_format(tmp_path, name):
    config = write(tmp_path, name, [5.0, 3.5, 5.0, 4.0])
    config |= {"event": "rating", "events": {"5.0": 2.0, "4.0": 1.0, "3.5": 0.0}}
    users, bad_rows = read(config, "error")
    assert users == ["u0", "u2", "u3"]
    assert bad_rows.left_out == {"left_out_3.5": 1}


def test_types_that_are_left_out_need_no_value(tmp_path):
    (tmp_path / "log.csv").write_text(
        "user,item,time,event,rating\na,x,1,view,\na,y,2,rate,4\na,z,3,rate,3\na,w,4,rate,\n"
    )
    config = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv", "event": "event"}
    config |= {"events": {"view": 0.0, "rate": 1.0}, **FIELDS}
    users, bad_rows = read(config)
    assert users == ["a"]
    assert bad_rows.left_out == {"left_out_view": 1, "below_min_value": 1}
    assert bad_rows.counts == {"not_a_number": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_value": 4}, "source.min_value is 4 and source.value ''.* needs the column"),
        ({"value": "rating", "min_value": float("nan")}, "source.min_value is nan"),
        ({"value": "stars"}, "no column 'stars'.* it has 'user', 'item', 'time', 'rating'"),
        ({"value": "time"}, "time, event and value are the columns .* must be different"),
        ({"value": "rating", "min_value": "4"}, "min_value is '4'; it must be of type float"),
    ],
)
def test_fields_that_do_not_fit_are_errors(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, "csv", [5]) | fields)


def test_movielens_1m_needs_no_code(tmp_path):
    (tmp_path / "ratings.dat").write_text(
        "1::1193::5::978300760\n1::661::3::978302109\n1::914::4::978301968\nbroken\n"
    )
    (tmp_path / "movies.dat").write_text(
        '661::James (1996)::Animation|Children\'s\n914::Café "Lady"::Musical\n1193::One: Two::X\n',
        encoding="latin-1",
    )
    config = {
        "name": "csv",
        "folder": str(tmp_path),
        "interactions": "ratings.dat",
        "header": "user,item,rating,time",
        "delimiter": "::",
        "encoding": "latin-1",
        "catalogue": "movies.dat",
        "catalogue_header": "item,title,genres",
        "title": "title",
        "attributes": "genres",
        "attribute_separator": "|",
        **FIELDS,
    }
    data = {"source": config, "split": "leave_one_out"}
    message = r"ratings.dat, line 4: 1 fields instead of 4 in 'broken'"
    with pytest.raises(ValueError, match=message):
        prepare(data, tmp_path / "prepared")
    manifest = prepare(data | {"on_bad_rows": "skip"}, tmp_path / "prepared")
    assert manifest["counts"]["read"]["below_min_value"] == 1
    prepared = Prepared.load(tmp_path / "prepared")
    assert [prepared.raw_item_ids[item] for item in prepared.columns["item"]] == ["1193", "914"]
    assert prepared.items["title"].to_list() == ["James (1996)", 'Café "Lady"', "One: Two"]
    assert prepared.items["attributes"][0].to_list() == ["genres=Animation", "genres=Children's"]
    with pytest.raises(ValueError, match=r"catalogue_header is .*movies.jsonl is read as jsonl"):
        (tmp_path / "movies.jsonl").write_text("{}")
        read(config | {"catalogue": "movies.jsonl"})


@pytest.mark.parametrize("layout", ["jsonl", "parquet", "pylines", "sqlite"])
def test_a_delimiter_of_a_catalogue_that_is_no_csv_file_is_an_error(tmp_path, layout):
    (layout,) = [every for every in LAYOUTS if every.name == layout]
    rows, items = [("a", "1", 5, 0)], [("1", "title", "brand", ["b"])]
    field = {"catalogue_delimiter": ";"}
    with pytest.raises(ValueError, match=r"source.catalogue_delimiter is ';', but .* CSV file"):
        read(layout.write(tmp_path, rows, items) | field)
    with pytest.raises(ValueError, match=r"source.catalogue_delimiter is ';', but .* no CSV file"):
        read(layout.write(tmp_path, rows) | field)


@pytest.mark.parametrize("delimiter", ["::", "||", ", ", "<>"])
def test_a_delimiter_of_several_characters_is_read_as_one_of_one(tmp_path, delimiter):
    text = (
        'user,item,time,note\na,x,1,"one,\ntwo ""three"""\nb,"y,z",2,\nc,w,3\n'
        'd,"v,4,x\ne,u:u,5,|\n"f"g,t,6,\nh,s,7,"é"\n'
    )
    found = []
    for written, how in ((text, ","), (text.replace(",", delimiter), delimiter)):
        (tmp_path / "log.csv").write_text(written)
        bad_rows = BadRows("skip")
        config = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv"}
        raw = sources.load(config | {"delimiter": how}, bad_rows)
        rows = [row for part in raw.parts for c in part.chunks(bad_rows) for row in c.rows()]
        rows = [(*row[:1], row[1].replace(how, ","), *row[2:]) for row in rows]
        found.append((rows, bad_rows.counts))
    assert found[0] == found[1]
    assert len(found[0][0]) == 4
    assert sum(found[0][1].values()) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"delimiter": ""}, "delimiter is ''; it must be one ASCII character or more"),
        ({"delimiter": "é"}, "delimiter is 'é'"),
        ({"delimiter": ":\n"}, "and no line end"),
        ({"delimiter": ':"'}, "the quote must not be part of the delimiter"),
        ({"quote": "''"}, "quote is \"''\"; it must be one"),
    ],
)
def test_delimiters_that_cannot_be(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, "csv", [5]) | fields)
