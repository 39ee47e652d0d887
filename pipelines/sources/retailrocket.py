"""Retail Rocket's e-commerce data set: events, properties of items over time, a category tree.

`events.csv` (timestamp in milliseconds, visitorid, event, itemid, transactionid) is the log.
`item_properties_part1.csv` and `_part2.csv` (timestamp, itemid, property, value) tell what an item
was when; the latest value of a property counts. `category_tree.csv` (categoryid, parentid) leads
from an item's category to those above it. The catalogue is every item of the log or the properties.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.sources.carried import check_carried, typed
from pipelines.sources.checked import Checked
from pipelines.sources.fields import input_files
from pipelines.sources.ids import clean_ids
from pipelines.sources.own_log import LogConfig, read_log
from pipelines.sources.times import to_ticks
from pipelines.tables import CsvTable, Kind
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import ITEM_SCHEMA, Part, RawDataset
from pipelines.tables.table import check_columns

_CATEGORY = "categoryid"
_PROPERTY_SCHEMA = {
    "itemid": pl.String,
    "property": pl.String,
    "timestamp": pl.Int64,
    "value": pl.String,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of the source; a file's name may be a pattern, and may end in `.gz` or `.zst`.

    Attributes:
        folder: where the files lie.
        events: known event types and what each counts as a training target; see `LogConfig`.
        interactions: file of the events.
        properties: files of the items' properties; "" for none.
        categories: file of the category tree; "" for none.
        attributes: properties that become attributes; a `categoryid` brings those above it along.
        text: properties whose values make up an item's text.
        columns: properties that `items.parquet` keeps as they are, so that a server's rules can
            speak of them.
    """

    folder: str
    events: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"view": 1.0, "addtocart": 1.0, "transaction": 1.0}
    )
    interactions: str = "events.csv"
    properties: str = "item_properties_part*.csv"
    categories: str = "category_tree.csv"
    attributes: tuple[str, ...] = (_CATEGORY,)
    text: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue.

    Raises:
        ValueError: a missing file or column, or a mistake in the properties or the tree.
    """
    log = LogConfig(
        interactions=config.interactions,
        folder=config.folder,
        user="visitorid",
        item="itemid",
        time="timestamp",
        time_unit="ms",
        event="event",
        events=config.events,
    )
    where = str(Path(config.folder) / (config.properties or config.interactions))
    check_carried(where, config.columns, config.attributes)
    inputs: dict[str, Path] = {}
    properties = _tables(config.folder, config.properties, "the items' properties", inputs)
    categories = _tables(config.folder, config.categories, "the category tree", inputs)
    raw = read_log(
        log, bad_rows, lambda path, name: CsvTable(str(path), name), further_inputs=inputs
    )
    wanted = {*config.attributes, *config.text, *config.columns}
    values = _latest_values(properties, wanted, bad_rows)
    for name in config.columns:
        if not (values["property"] == name).any():
            raise ValueError(
                f"{where}: no item has the property {name!r}, which source.columns names"
            )
    tree = _read_tree(categories, bad_rows)
    in_log = _items_of(raw.parts)
    items = _catalogue(in_log, values, tree, config)
    return dataclasses.replace(raw, items=items)


def _tables(folder: str, name: str, what: str, inputs: dict[str, Path]) -> list[CsvTable]:
    found = input_files(folder, name, what) if name else []
    inputs.update(found)
    return [CsvTable(str(path), name) for name, path in found]


def _items_of(parts: Iterable[Part]) -> pl.Series:
    """The distinct items of a log; its mistakes are told when it is read as a log."""
    distinct = pl.Series("itemid", dtype=pl.String)
    unheard = BadRows("skip")
    for part in parts:
        for chunk in part.chunks(unheard):
            distinct = pl.concat([distinct, chunk["item"].unique()]).unique()
    return distinct


def _latest_values(tables: Iterable[CsvTable], wanted: set[str], bad_rows: BadRows) -> pl.DataFrame:
    """The newest value of each wanted property of an item, and every item: null, null."""
    latest = pl.DataFrame(schema=_PROPERTY_SCHEMA)
    for table in tables:
        kinds: dict[str, Kind] = {
            "timestamp": "time",
            "itemid": "id",
            "property": "event",
            "value": "text",
        }
        check_columns(table, kinds, "an item's properties")
        for rows in table.rows(kinds):
            checked = Checked(table, rows)
            if len(checked.frame):
                clean_ids(checked, "itemid")
                to_ticks(checked, "timestamp", "ms")
                is_wanted = pl.col("property").is_in(list(wanted))
                frame = checked.frame.select(
                    "itemid",
                    pl.when(is_wanted).then("property").alias("property"),
                    pl.when(is_wanted).then("timestamp").otherwise(0).alias("timestamp"),
                    pl.when(is_wanted).then("value").alias("value"),
                )
                # Of equal times the later row counts.
                latest = (
                    pl.concat([latest, frame])
                    .sort("timestamp", maintain_order=True)
                    .unique(["itemid", "property"], keep="last", maintain_order=True)
                )
            checked.flush(bad_rows)
    return latest


def _read_tree(tables: Sequence[CsvTable], bad_rows: BadRows) -> dict[str, str]:
    """The category above each; roots are left out."""
    parent: dict[str, str] = {}
    for table in tables:
        kinds: dict[str, Kind] = {"categoryid": "id", "parentid": "text"}
        check_columns(table, kinds, "the category tree")
        for rows in table.rows(kinds):
            checked = Checked(table, rows)
            if len(checked.frame):
                clean_ids(checked, "categoryid")
                ids = checked.frame["categoryid"]
                known = pl.Series(list(parent), dtype=pl.String)
                again = ids.is_first_distinct().not_() | ids.is_in(known.implode())
                checked.leave_out(
                    again,
                    "duplicate_category",
                    lambda place, ids=ids: f"category {ids[place]!r} is listed already",
                )
                pairs = checked.frame.select("categoryid", "parentid").rows()
                parent.update((child, above.strip()) for child, above in pairs if above.strip())
            checked.flush(bad_rows)
    for category in parent:
        seen = [category]
        while (above := parent.get(seen[-1])) is not None:
            if above in seen:
                circle = " -> ".join([*seen, above])
                raise ValueError(
                    f"{', '.join(table.path for table in tables)}: the category tree leads in a "
                    f"circle: {circle:.500}; each category must lie below a root"
                )
            seen.append(above)
    return parent


def _catalogue(
    in_log: pl.Series, values: pl.DataFrame, tree: Mapping[str, str], config: Config
) -> pl.DataFrame:
    ids = pl.concat([in_log, values["itemid"]]).unique().sort()
    value_of = {
        (item, name): value
        for item, name, value in values.select("itemid", "property", "value").rows()
        if name is not None
    }
    texts, attributes = [], []
    for item in ids:
        texts.append("\n".join(filter(None, (value_of.get((item, name)) for name in config.text))))
        entries = []
        for name in config.attributes:
            value = value_of.get((item, name))
            while value:
                entries.append(f"{name}={value}")
                value = tree.get(value) if name == _CATEGORY else None
        attributes.append(entries)
    return pl.DataFrame(
        {
            "raw_item_id": ids,
            "title": np.full(len(ids), "", object),
            "text": texts,
            "attributes": attributes,
        },
        schema=ITEM_SCHEMA,
    ).with_columns(
        typed(pl.Series(name, [value_of.get((item, name)) for item in ids], pl.String))
        for name in config.columns
    )
