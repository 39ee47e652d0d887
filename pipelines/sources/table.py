"""What the sources of tables have in common: files, columns, and a catalogue in a second file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pipelines.bad_rows import BadRows
from pipelines.columns import LogColumns, TablePart
from pipelines.interactions import RawDataset
from pipelines.item_file import ItemColumns, read_items
from pipelines.readers import Reader
from pipelines.sources.fields import input_file, input_files


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """Fields of a source whose rows are interactions.

    Attributes:
        folder: where the files lie.
        interactions: the log's file, or a pattern such as `part-*.csv`: all files that match, in
            the order of their names, are one log.
        user: column of the user's id.
        item: column of the item's id.
        time: column of the time; empty: the log is in order and has no times.
        time_unit: "s", "ms", "us" or "ns" since 1970, or "iso" for text such as 2024-05-01T12:00.
        event: column of the event's type; empty: all are of one type.
        events: the types and what an event of each counts as a training target, such as
            "view=1,cart=3,buy=5" or a mapping. A type that counts 0 is left out.
        items: file of the catalogue, `.csv`, `.tsv`, `.jsonl` or `.parquet`; empty: the catalogue
            is what the log has.
        item_id: column of an item's id there; empty: the same name as `item`.
        title: column of its title; empty: none.
        text: columns that describe it, divided by commas.
        attributes: columns such as brand or category, divided by commas.
        attribute_separator: divides several values in one attribute's column.
    """

    folder: str
    interactions: str
    user: str = "user"
    item: str = "item"
    time: str = "time"
    time_unit: str = "s"
    event: str = ""
    events: str | Mapping[str, float] = ""
    items: str = ""
    item_id: str = ""
    title: str = ""
    text: str = ""
    attributes: str = ""
    attribute_separator: str = "|"


def load_table(config: TableConfig, reader: Reader, bad_rows: BadRows) -> RawDataset:
    """Opens a log whose files `reader` reads, and reads its catalogue.

    Raises:
        ValueError: a field that cannot be, a missing file, or a mistake in the catalogue.
    """
    columns = LogColumns(
        user=config.user,
        item=config.item,
        time=config.time,
        time_unit=config.time_unit,
        event=config.event,
        events=parse_events(config.events),
    )
    paths = input_files(config.folder, config.interactions, "the log")
    inputs = dict(paths)
    items = None
    if config.items:
        path = input_file(config.folder, config.items, "the catalogue")
        inputs[_relative(path, config.folder)] = path
        item_columns = ItemColumns(
            item_id=config.item_id or config.item,
            title=config.title,
            text=_names(config.text),
            attributes=_names(config.attributes),
            separator=config.attribute_separator,
        )
        items = read_items(path, item_columns, bad_rows)
    return RawDataset(
        parts=tuple(TablePart(name, path, reader, columns) for name, path in paths.items()),
        items=items,
        inputs=inputs,
        has_times=bool(config.time),
        event_types=tuple(columns.event_weights),
        event_weights=tuple(columns.event_weights.values()),
    )


def parse_events(events: str | Mapping[str, float]) -> dict[str, float]:
    """Returns event types and their weights from a mapping or from "view=1,cart=3".

    Raises:
        ValueError: a type without a name, twice, or whose weight is no number.
    """
    if isinstance(events, str):
        pairs = [entry.rpartition("=") for entry in events.split(",") if entry.strip()]
        named = [(name.strip(), weight) for name, _, weight in pairs]
    else:
        named = list(events.items())
    weights: dict[str, float] = {}
    for name, weight in named:
        try:
            value = float(weight)
        except (TypeError, ValueError):
            raise ValueError(f"events: {name!r} counts {weight!r}; it must be a number") from None
        if not name or name in weights:
            raise ValueError(f"events are {events!r}; each needs a name of its own, as in 'view=1'")
        weights[name] = value
    return weights


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _relative(path: Path, folder: str) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
