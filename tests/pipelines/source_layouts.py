"""The same interactions and items in the layout of every source, for the suite that all share."""

import csv
import dataclasses
import gzip
import itertools
import json
import sqlite3
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import zstandard

from pipelines.tables.interactions import TICKS_PER_SECOND

EVENTS = ("view", "cart")
WEIGHTS = {"view": 1.0, "cart": 3.0}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a source's files are written.

    Attributes:
        name: of the layout.
        write: `write(folder, rows, items)` writes the log, and the catalogue where `items` is not
            None, and returns the source's config. A row is (user, item, time, event's number or
            any text), an item (id, title, brand, categories).
        log: the file of the log.
        has_times: whether the layout knows times.
        has_events: whether it knows event types.
        has_titles: whether it knows titles and brands.
        whole_numbers: items are whole numbers, users have no spaces.
        is_table: one row an interaction, under named columns.
        place: what a row is found by.
        first_line: of the first row.
        is_typed: a value of the wrong type cannot be written.
        suffix: that a second file of the log must have.
    """

    name: str
    write: Callable[..., dict[str, Any]]
    log: str
    has_times: bool = True
    has_events: bool = True
    has_titles: bool = True
    whole_numbers: bool = False
    is_table: bool = True
    place: str = "line"
    first_line: int = 2
    is_typed: bool = False
    time_column: str = "time"
    user_column: str = "user"

    def __str__(self) -> str:
        return self.name


def seconds(ticks):
    """A time of a source's chunk in seconds, exactly."""
    return Fraction(ticks, TICKS_PER_SECOND)


def event_name(event):
    return EVENTS[event] if isinstance(event, int) else event


def pack(path: Path, data: bytes):
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    if path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def csv_text(header, rows, **dialect) -> bytes:
    class Lines(list):
        write = list.append

    lines = Lines()
    writer = csv.writer(lines, lineterminator="\n", **dialect)
    writer.writerow(header)
    writer.writerows(rows)
    return "".join(lines).encode()


def own_log(name, log, items, **fields):
    config = {"name": name, "interactions": log, "event": "event", "events": dict(WEIGHTS)}
    if items:
        config |= {"catalogue": items, "item_id": "id", "title": "title", "text": ["brand"]}
        config |= {"attributes": ["categories"]}
    return config | fields


def log_frame(rows):
    return pl.DataFrame(
        {
            "time": pl.Series([row[2] for row in rows]),
            "user": pl.Series([row[0] for row in rows]),
            "note": [f'a, "b"\nof {place}' for place in range(len(rows))],
            "item": pl.Series([row[1] for row in rows]),
            "event": [event_name(row[3]) for row in rows],
        },
        strict=False,
    )


def write_csv(folder, rows, items=None, log="log.csv"):
    header = ["time", "user", "note", "item", "event"]
    lines = [(time, user, f"note, of {user}", item, event_name(e)) for user, item, time, e in rows]
    pack(folder / log, csv_text(header, lines))
    if items is not None:
        entries = [(i, title, brand, "|".join(many)) for i, title, brand, many in items]
        pack(folder / "items.csv", csv_text(["id", "title", "brand", "categories"], entries))
    fields = {"attribute_separator": "|"}
    return own_log("csv", log, "items.csv" if items is not None else "", **fields) | {
        "folder": str(folder)
    }


def write_jsonl(folder, rows, items=None, log="log.jsonl"):
    lines = [
        {"user": user, "item": item, "time": time, "event": event_name(event)}
        for user, item, time, event in rows
    ]
    pack(folder / log, "".join(json.dumps(line) + "\n" for line in lines).encode())
    if items is not None:
        entries = [
            {"id": i, "title": title, "brand": brand, "categories": many}
            for i, title, brand, many in items
        ]
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        pack(folder / "items.ndjson", text.encode())
    config = own_log("jsonl", log, "items.ndjson" if items is not None else "")
    return config | {"folder": str(folder)}


def write_pylines(folder, rows, items=None, log="log.json.gz"):
    lines = [
        {"user": user, "item": item, "time": time, "event": event_name(event), "more": ("a", None)}
        for user, item, time, event in rows
    ]
    pack(folder / log, "".join(f"{line!r}\n" for line in lines).encode())
    if items is not None:
        entries = [
            {"id": i, "title": title, "brand": brand, "categories": many}
            for i, title, brand, many in items
        ]
        # Python 2 wrote its texts so.
        text = "".join(f"{entry!r}\n".replace(": '", ": u'") for entry in entries)
        pack(folder / "meta.json.gz", text.encode())
    config = own_log("pylines", log, "meta.json.gz" if items is not None else "")
    return config | {"folder": str(folder), "catalogue_format": "pylines"}


def write_parquet(folder, rows, items=None, log="log.parquet"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / log).parent.mkdir(parents=True, exist_ok=True)
    log_frame(rows).write_parquet(folder / log, row_group_size=3)
    if items is not None:
        ids, titles, brands, many = zip(*items, strict=True) if items else ((),) * 4
        frame = pl.DataFrame(
            {"id": ids, "title": titles, "brand": brands, "categories": many},
            schema_overrides={"categories": pl.List(pl.String)},
        )
        frame.write_parquet(folder / "items.parquet")
    config = own_log("parquet", log, "items.parquet" if items is not None else "")
    return config | {"folder": str(folder)}


def write_sqlite(folder, rows, items=None, log="log.db"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / log
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE log (time, user, note, item, event)")
        # An index that holds all columns must not set the order.
        connection.execute("CREATE INDEX by_item ON log (item, event, user, time)")
        connection.executemany(
            "INSERT INTO log VALUES (?, ?, 'note', ?, ?)",
            [(time, user, item, event_name(event)) for user, item, time, event in rows],
        )
        if items is not None:
            connection.execute("CREATE TABLE items (id, title, brand, categories)")
            connection.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?)",
                [(i, title, brand, "|".join(many)) for i, title, brand, many in items],
            )
    connection.close()
    config = own_log("sqlite", log, "x" if items is not None else "", table="log")
    if items is not None:
        config |= {"catalogue": "", "catalogue_table": "items", "attribute_separator": "|"}
    return config | {"folder": str(folder)}


def write_recbole(folder, rows, items=None, log="set.inter"):
    header = ["user_id:token", "item_id:token", "rating:float", "timestamp:float", "event:token"]
    lines = [header] + [
        [str(value) for value in (user, item, "3.5", time, event_name(event))]
        for user, item, time, event in rows
    ]
    pack(folder / log, "".join("\t".join(line) + "\n" for line in lines).encode())
    config = {
        "name": "recbole",
        "folder": str(folder),
        "interactions": log,
        "event": "event",
        "events": dict(WEIGHTS),
    }
    if items is not None:
        header = ["item_id:token", "title:token_seq", "brand:token", "categories:token_seq"]
        lines = [header] + [[i, title, brand, " ".join(many)] for i, title, brand, many in items]
        pack(folder / "set.item", "".join("\t".join(line) + "\n" for line in lines).encode())
        config |= {"catalogue": "set.item", "title": "title", "text": "brand"}
        config |= {"attributes": "categories"}
    return config


def write_retailrocket(folder, rows, items=None, log="events.csv"):
    header = ["timestamp", "visitorid", "event", "itemid", "transactionid"]
    lines = [
        (time * 1000 if isinstance(time, int) else time, user, event_name(event), item, "")
        for user, item, time, event in rows
    ]
    pack(folder / log, csv_text(header, lines))
    config = {"name": "retailrocket", "folder": str(folder), "events": "view=1,cart=3"}
    config["interactions"] = log
    if items is None:
        return config | {"properties": "", "categories": ""}
    properties = [
        (1_500_000_000_000 + step, i, "category", value)
        for i, _, _, many in items
        for step, value in enumerate(["older", *many])
    ]
    header = ["timestamp", "itemid", "property", "value"]
    middle = len(properties) // 2
    for part, some in ((1, properties[middle:]), (2, properties[:middle])):
        pack(folder / f"item_properties_part{part}.csv", csv_text(header, some))
    pack(folder / "category_tree.csv", b"categoryid,parentid\n5,4\n4,\n")
    return config | {"attributes": "category"}


def by_user(rows):
    ordered = sorted(rows, key=lambda row: str(row[0]))
    return itertools.groupby(ordered, key=lambda row: str(row[0]))


def write_sasrec(folder, rows, items=None, log="log.txt"):
    lines = [" ".join([user, *(str(row[1]) for row in some)]) for user, some in by_user(rows)]
    pack(folder / log, "".join(f"{line}\n" for line in lines).encode())
    config = {"name": "sasrec", "folder": str(folder), "interactions": log}
    if items is not None:
        pack(folder / "a.json", json.dumps({i: many for i, _, _, many in items}).encode())
        config["attributes"] = "a.json"
    return config


def write_minionerec(folder, rows, items=None, log="train/log.csv"):
    """Every interaction but a user's first is the target of a row."""
    if items is None:
        items = [(str(row[1]), f"title {row[1]}", "", []) for row in rows]
    header = ["user_id", "history_item_id", "item_id"]
    lines = {log: [], "valid/log.csv": [], "test/log.csv": []}
    for user, some in by_user(rows):
        ids = [row[1] for row in some]
        for at in range(1, len(ids)):
            split = {2: "valid/log.csv", 1: "test/log.csv"}.get(len(ids) - at, log)
            lines[split].append((user, str(ids[max(0, at - 10) : at]), ids[at]))
    for name, some in lines.items():
        pack(folder / name, csv_text(header, some))
    entries = {
        i: {"title": title, "brand": brand, "categories": many} for i, title, brand, many in items
    }
    pack(folder / "index" / "log.item.json", json.dumps(entries).encode())
    pack(folder / "index" / "log.index.json", json.dumps({i: ["<a_1>"] for i in entries}).encode())
    return {"name": "minionerec", "folder": str(folder), "train": log}


def named(write, log):
    return lambda folder, rows, items=None, log=log: write(folder, rows, items, log)


LAYOUTS = [
    Layout("csv", write_csv, "log.csv"),
    Layout("csv_gz", named(write_csv, "log.csv.gz"), "log.csv.gz"),
    Layout("csv_zst", named(write_csv, "log.csv.zst"), "log.csv.zst"),
    Layout("jsonl", write_jsonl, "log.jsonl", first_line=1),
    Layout("jsonl_gz", named(write_jsonl, "log.jsonl.gz"), "log.jsonl.gz", first_line=1),
    Layout("pylines", write_pylines, "log.json.gz", first_line=1),
    Layout("parquet", write_parquet, "log.parquet", place="row", first_line=1, is_typed=True),
    Layout("sqlite", write_sqlite, "log.db", place="row", first_line=1),
    Layout("recbole", write_recbole, "set.inter", time_column="timestamp", user_column="user_id"),
    Layout(
        "retailrocket",
        write_retailrocket,
        "events.csv",
        has_titles=False,
        time_column="timestamp",
        user_column="visitorid",
    ),
    Layout(
        "sasrec",
        write_sasrec,
        "log.txt",
        has_times=False,
        has_events=False,
        has_titles=False,
        whole_numbers=True,
        is_table=False,
        first_line=1,
    ),
    Layout(
        "minionerec",
        write_minionerec,
        "train/log.csv",
        has_times=False,
        has_events=False,
        whole_numbers=True,
        is_table=False,
    ),
]
TABLES = [layout for layout in LAYOUTS if layout.is_table]
