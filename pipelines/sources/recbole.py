"""RecBole's atomic files (arXiv 2011.01731): `NAME.inter` and `NAME.item`, fields between tabs.

A header names a field and its type, `user_id:token`. Values of the types `token_seq` and
`float_seq` are several, with spaces between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from pipelines.sources.fields import input_files
from pipelines.sources.own_log import LogColumns, LogConfig, csv_table, read_log
from pipelines.tables import CsvTable, Kind, Rows
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import RawDataset

_TYPES = ("token", "token_seq", "float", "float_seq")
_MAY_BE: dict[Kind, tuple[str, ...]] = {
    "id": ("token",),
    "event": ("token",),
    "number": ("float", "token"),
    "time": ("float", "token"),
    "text": _TYPES,
    "list": _TYPES,
    "plain": ("token", "float"),
}


@dataclasses.dataclass(frozen=True)
class Config(LogColumns):
    """Fields of the source, beside those of `LogColumns`; fields are named without their types.

    Attributes:
        interactions: file of the log, or a pattern.
        folder: where the files lie.
        catalogue: file of the catalogue; "" for none. Its items are called as in the log.
        title: field of titles; "" for none.
        text: fields that, after the title, make up an item's text.
        attributes: fields that become attributes; a sequence gives several.
        columns: fields that `items.parquet` keeps as they are; sequences cannot be.
        delimiter: between fields.
        quote: RecBole's own files have none.
        encoding: of the files.
    """

    interactions: str
    folder: str = ""
    catalogue: str = ""
    title: str = ""
    text: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    delimiter: str = "\t"
    quote: str = ""
    encoding: str = "utf-8"
    _: dataclasses.KW_ONLY
    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue.

    Raises:
        ValueError: a header whose fields have no types, a wrong type; and see `read_log`.
    """
    inputs: dict[str, Path] = {}
    items = []
    if config.catalogue:
        for name, path in input_files(config.folder, config.catalogue, "the catalogue"):
            inputs[name] = path
            items.append(_table(path, name, config))
    return read_log(
        LogConfig(
            interactions=config.interactions,
            folder=config.folder,
            title=config.title,
            text=config.text,
            attributes=config.attributes,
            columns=config.columns,
            **{f.name: getattr(config, f.name) for f in dataclasses.fields(LogColumns)},
        ),
        bad_rows,
        lambda path, name: _table(path, name, config),
        items_of=items,
        further_inputs=inputs,
    )


def _table(path: Path, name: str, config: Config) -> AtomicTable:
    return AtomicTable(csv_table(path, name, config.delimiter, config.quote, config.encoding))


@dataclasses.dataclass(frozen=True)
class AtomicTable:
    """An atomic file, its columns named without their types.

    Attributes:
        csv: the file as it is.
    """

    csv: CsvTable

    place = "line"

    @property
    def path(self) -> str:
        """Where it lies."""
        return self.csv.path

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.csv.name

    def columns(self) -> list[str]:
        """Returns the fields' names.

        Raises:
            ValueError: a field of the header has no type that is known.
        """
        return [name for name, _ in self._fields()]

    def rows(self, columns: Mapping[str, Kind]) -> Iterator[Rows]:
        """Yields the rows: String, or List(String) for the kind "list"; see `Table.rows`.

        Raises:
            ValueError: a field of a type that it cannot be read for.
        """
        types = dict(self._fields())
        if not types:
            yield from self.csv.rows(columns)
            return
        for name, kind in columns.items():
            if types[name] not in _MAY_BE[kind]:
                raise ValueError(
                    f"{self.path}: field {name!r} is of type {types[name]!r}; it must be "
                    f"{' or '.join(_MAY_BE[kind])}"
                )
        given = {f"{name}:{types[name]}": kind for name, kind in columns.items()}
        for rows in self.csv.rows(given):
            frame = rows.frame.select(
                _several(pl.col(f"{name}:{types[name]}"), kind, types[name]).alias(name)
                for name, kind in columns.items()
            )
            yield dataclasses.replace(rows, frame=frame)

    def _fields(self) -> list[tuple[str, str]]:
        fields = []
        for column in self.csv.columns():
            name, _, kind = column.rpartition(":")
            if not name or kind not in _TYPES:
                raise ValueError(
                    f"{self.path}: the header's field {column!r:.80} has no type; it must be "
                    f"written as NAME:TYPE with a type of {', '.join(_TYPES)}"
                )
            fields.append((name, kind))
        return fields


def _several(values: pl.Expr, kind: Kind, type_name: str) -> pl.Expr:
    """A sequence's values one by one, where they are read as a list."""
    return values.str.split(" ") if kind == "list" and type_name.endswith("_seq") else values
