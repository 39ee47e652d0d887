"""RecBole's atomic files: `NAME.inter` and `NAME.item`, tab-separated, with typed columns.

A header's column is `name:type`, the type one of token, token_seq, float and float_seq (RecBole,
arXiv 2011.01731). Config fields name columns without their type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pipelines.bad_rows import BadRows
from pipelines.columns import LogColumns, TablePart
from pipelines.interactions import RawDataset
from pipelines.item_file import ItemColumns, read_items
from pipelines.readers import Delimited
from pipelines.sources.fields import input_file, input_files
from pipelines.sources.table import parse_events

_TYPES = ("token", "token_seq", "float", "float_seq")
_READER = Delimited(separator="\t", quote="")


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of the source.

    Attributes:
        folder: where the files lie.
        interactions: the `.inter` file, or a pattern that one or several files match.
        items: the `.item` file, or a pattern that one file matches; empty: the catalogue is what
            the log has.
        user: column of the user's id.
        item: column of the item's id, in both files.
        time: column of the time; empty: the log is in order and has no times.
        time_unit: "s", "ms", "us" or "ns" since 1970.
        event: column of the event's type; empty: all are of one type.
        events: the types and what an event of each counts, such as "view=1,buy=5".
        title: column of an item's title; empty: none.
    """

    folder: str
    interactions: str = "*.inter"
    items: str = ""
    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    time_unit: str = "s"
    event: str = ""
    events: str | Mapping[str, float] = ""
    title: str = ""


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue, whose other token columns are its attributes.

    Raises:
        ValueError: a missing file or column, a header that is none, or a mistake in the catalogue.
    """
    paths = input_files(config.folder, config.interactions, "the interactions")
    inputs = dict(paths)
    parts, weights = [], {}
    for name, path in paths.items():
        typed = _header(path)
        columns = LogColumns(
            user=_column(path, typed, config.user),
            item=_column(path, typed, config.item),
            time=_column(path, typed, config.time) if config.time else "",
            time_unit=config.time_unit,
            event=_column(path, typed, config.event) if config.event else "",
            events=parse_events(config.events),
        )
        weights = columns.event_weights
        parts.append(TablePart(name, path, _READER, columns))
    items = None
    if config.items:
        path = input_file(config.folder, config.items, "the items")
        inputs[path.name] = path
        items = read_items(path, _item_columns(path, config), bad_rows, _READER)
    return RawDataset(
        parts=tuple(parts),
        items=items,
        inputs=inputs,
        has_times=bool(config.time),
        event_types=tuple(weights),
        event_weights=tuple(weights.values()),
    )


def _header(path: Path) -> dict[str, str]:
    """Returns the type of each column.

    Raises:
        ValueError: the first line is no header.
    """
    with path.open("rb") as file:
        line = file.readline(1 << 20)
    names = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").rstrip("\r\n").split("\t")
    typed = {name.rpartition(":")[0]: name.rpartition(":")[2] for name in names}
    for name, kind in typed.items():
        if not name or kind not in _TYPES:
            raise ValueError(
                f"{path}, line 1: column {f'{name}:{kind}'.strip(':')!r}; an atomic file's columns "
                f"are name:type, tab-separated, with type one of {', '.join(_TYPES)}"
            )
    return typed


def _column(path: Path, typed: Mapping[str, str], name: str) -> str:
    if name not in typed:
        raise ValueError(
            f"{path}: there is no column {name!r}; its columns: {', '.join(map(repr, typed))}"
        )
    return f"{name}:{typed[name]}"


def _item_columns(path: Path, config: Config) -> ItemColumns:
    typed = _header(path)
    item_id = _column(path, typed, config.item)
    title = _column(path, typed, config.title) if config.title else ""
    attributes = {
        f"{name}:{kind}": " " if kind == "token_seq" else ""
        for name, kind in typed.items()
        if kind.startswith("token") and f"{name}:{kind}" not in (item_id, title)
    }
    return ItemColumns(item_id, title, attributes=tuple(attributes), separators=attributes)
