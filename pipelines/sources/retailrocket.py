"""Retail Rocket's shop log: `events.csv`, `item_properties_part*.csv` and `category_tree.csv`.

The data set is on Kaggle (retailrocket/ecommerce-dataset). An item's properties change over time;
the newest value of each counts. Values are hashed words, but for the category.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from pipelines.bad_rows import BadRows
from pipelines.columns import LogColumns, TablePart
from pipelines.interactions import ITEM_SCHEMA, RawDataset
from pipelines.readers import Delimited
from pipelines.sources.fields import input_files
from pipelines.sources.table import parse_events

_READER = Delimited()
_CATEGORY = "categoryid"


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of the source.

    Attributes:
        folder: where the files lie.
        interactions: the events, or a pattern.
        events: the types and what an event of each counts as a training target.
        properties: the items' properties, or a pattern; empty: none are read.
        categories: the tree of categories; empty: none is read.
        text_properties: properties whose words describe an item, divided by commas.
    """

    folder: str
    interactions: str = "events.csv"
    events: str | Mapping[str, float] = "view=1,addtocart=1,transaction=1"
    properties: str = "item_properties_part*.csv"
    categories: str = "category_tree.csv"
    text_properties: str = ""


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log, and reads properties and categories of the items in it.

    Raises:
        ValueError: a missing file or column, or a mistake in properties or categories.
    """
    columns = LogColumns(
        user="visitorid",
        item="itemid",
        time="timestamp",
        time_unit="ms",
        event="event",
        events=parse_events(config.events),
    )
    paths = input_files(config.folder, config.interactions, "the events")
    parts = tuple(TablePart(name, path, _READER, columns) for name, path in paths.items())
    inputs = dict(paths)
    items = None
    if config.properties:
        of_items = input_files(config.folder, config.properties, "the items' properties")
        parents: dict[str, str] = {}
        inputs |= of_items
        if config.categories:
            tree = input_files(config.folder, config.categories, "the tree of categories")
            inputs |= tree
            for path in tree.values():
                parents |= _read_tree(path, bad_rows)
        text = [name.strip() for name in config.text_properties.split(",") if name.strip()]
        items = _catalogue(parts, list(of_items.values()), parents, text, bad_rows)
    return RawDataset(
        parts=parts,
        items=items,
        inputs=inputs,
        event_types=tuple(columns.event_weights),
        event_weights=tuple(columns.event_weights.values()),
    )


def _read_tree(path: Path, bad_rows: BadRows) -> dict[str, str]:
    """Returns each category's parent."""
    parents: dict[str, str] = {}
    for frame in _READER.frames(path, ("categoryid", "parentid"), bad_rows):
        for child, parent, line in frame.rows():
            if not child or parents.get(child, parent) != parent:
                bad_rows.add(
                    "category_without_id" if not child else "category_with_two_parents",
                    f"{path}, line {line}: categoryid {child!r} has parentid {parent!r}",
                )
            elif parent:
                parents[child] = parent
    return parents


def _catalogue(
    parts: Sequence[TablePart],
    paths: Sequence[Path],
    parents: Mapping[str, str],
    text_properties: Sequence[str],
    bad_rows: BadRows,
) -> pl.DataFrame:
    """Returns the items of the log, sorted by id, with what the properties say of them."""
    # Bad rows of the log are told when it is read for good.
    chunks = [chunk["item"].unique() for part in parts for chunk in part.chunks(BadRows("skip"))]
    ids = pl.concat(chunks).unique().sort() if chunks else pl.Series(dtype=pl.String)
    wanted = [_CATEGORY, *text_properties]
    newest = pl.DataFrame(
        schema={"itemid": pl.String, "property": pl.String, "value": pl.String, "time": pl.Int64}
    )
    names = ("timestamp", "itemid", "property", "value")
    for path in paths:
        for frame in _READER.frames(path, names, bad_rows):
            time = frame["timestamp"].cast(pl.Int64, strict=False)
            wrong = time.is_null() | frame["itemid"].is_null() | frame["property"].is_null()
            if wrong.any():
                row = frame.filter(wrong).row(0, named=True)
                bad_rows.add(
                    "property_does_not_parse",
                    f"{path}, line {row['line']}: timestamp {row['timestamp']!r}, itemid "
                    f"{row['itemid']!r}, property {row['property']!r}; it needs all three",
                    int(wrong.sum()),
                )
            some = frame.with_columns(time.alias("time")).filter(
                ~wrong
                & pl.col("property").is_in(wanted)
                & pl.col("itemid").is_in(ids.implode())
                & pl.col("value").is_not_null()
            )
            newest = (
                pl.concat([newest, some.select(newest.columns)])
                .sort("time", maintain_order=True)
                .unique(("itemid", "property"), keep="last", maintain_order=True)
            )
    value = {name: newest.filter(pl.col("property") == name) for name in wanted}
    category = dict(value[_CATEGORY].select("itemid", "value").rows())
    texts = [dict(value[name].select("itemid", "value").rows()) for name in text_properties]
    return pl.DataFrame(
        {
            "raw_item_id": ids,
            "title": [""] * len(ids),
            "text": [" ".join(filter(None, (text.get(item) for text in texts))) for item in ids],
            "attributes": [_line_of(category.get(item), parents) for item in ids],
        },
        schema=ITEM_SCHEMA,
    )


def _line_of(category: str | None, parents: Mapping[str, str]) -> list[str]:
    """Returns a category and those above it, as attributes."""
    line: list[str] = []
    while category and f"category={category}" not in line:
        line.append(f"category={category}")
        category = parents.get(category)
    return line
