"""A person's own log: fields that say which column is what, shared by the sources of tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.sources.checked import Checked
from pipelines.sources.fields import input_files
from pipelines.sources.ids import clean_ids
from pipelines.sources.items import ItemColumns, read_items
from pipelines.sources.times import check_unit, to_ticks
from pipelines.sources.values import BELOW, keep_from
from pipelines.tables import CsvTable, JsonlTable, Kind, ParquetTable, PyLinesTable, Table
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import RawDataset
from pipelines.tables.table import check_columns

_FORMATS = {
    "csv": (".csv", ".tsv", ".txt", ".dat"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet", ".pq"),
    "sqlite": (".sqlite", ".sqlite3", ".db"),
}
_COMPRESSED = (".gz", ".zst")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogColumns:
    """Which column of a log is what.

    Attributes:
        user: column of user ids.
        item: column of item ids.
        time: column of times; "" for a log in order that has none.
        event: column of event types; "" for a log of one type.
        time_unit: of numbers in `time`: "s", "ms", "us", "ns"; for text "iso" (ISO 8601, such as
            "2019-10-01 00:00:00 UTC") or a pattern of `strptime`'s directives, such as
            "%d/%m/%Y %H:%M" (English names; UTC without `%z`). Columns of dates say by themselves
            what they are.
        events: known event types in order, and what each counts as a training target:
            `{"view": 1, "cart": 3}` or "view=1,cart=3". Rows of a type of weight 0 are left out
            and counted; rows of a type that is not named are bad rows. A type that a file holds
            as a number is called as that is written, such as `4.0`.
        value: column of a number, such as a rating; "" for none.
        min_value: rows whose value is lower are left out and counted: with 4, only ratings of 4
            and more are events. Rows without a number there are bad rows.
    """

    user: str = "user"
    item: str = "item"
    time: str = "time"
    event: str = ""
    time_unit: str = "s"
    events: Mapping[str, float] = dataclasses.field(default_factory=dict)
    value: str = ""
    min_value: float = 0.0

    def __post_init__(self):
        check_unit(self.time_unit)
        for field in ("user", "item"):
            if not getattr(self, field):
                raise ValueError(f"source.{field} is empty; name the column of {field} ids")
        if bool(self.event) != bool(self.events):
            raise ValueError(
                f"source.event is {self.event!r} and source.events {dict(self.events)}: an event "
                "column needs its event types and their weights, such as 'view=1,cart=3', and they "
                "need a column"
            )
        for name, weight in self.events.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(
                    f"source.events gives {name!r} the weight {weight}; it must be 0 (rows of this "
                    "type are left out) or more"
                )
        if self.events and not self.kept():
            raise ValueError(f"source.events is {dict(self.events)}: no type has a weight above 0")
        if not math.isfinite(self.min_value) or (self.min_value and not self.value):
            raise ValueError(
                f"source.min_value is {self.min_value} and source.value {self.value!r}: a "
                "threshold is a finite number and needs the column that it is for, such as rating"
            )

    def kept(self) -> dict[str, float]:
        """Returns the event types that are read, and their weights."""
        return {name: weight for name, weight in self.events.items() if weight}

    def kinds(self) -> dict[str, Kind]:
        """Returns the columns that are read, and what for."""
        kinds: dict[str, Kind] = {self.user: "id", self.item: "id"}
        if self.time:
            kinds[self.time] = "time"
        if self.event:
            kinds[self.event] = "event"
        if self.value:
            kinds[self.value] = "number"
        fields = (self.user, self.item, self.time, self.event, self.value)
        named = [name for name in fields if name]
        if len(kinds) < len(named):
            raise ValueError(
                "source.user, item, time, event and value are the columns "
                f"{', '.join(map(repr, named))}; they must be different ones"
            )
        return kinds


@dataclasses.dataclass(frozen=True)
class TablePart:
    """A file of a log, as a `Part`.

    Attributes:
        table: the file.
        columns: which column is what.
    """

    table: Table
    columns: LogColumns

    @property
    def name(self) -> str:
        """What errors and the manifest call the file."""
        return self.table.name

    def chunks(self, bad_rows: BadRows) -> Iterator[pl.DataFrame]:
        """Yields the interactions; see `Part.chunks`."""
        for rows in self.table.rows(self.columns.kinds()):
            checked = Checked(self.table, rows)
            if len(checked.frame):
                chunk = self._chunk(checked, bad_rows)
                checked.flush(bad_rows)
                if len(chunk):
                    yield chunk
            else:
                checked.flush(bad_rows)

    def _chunk(self, checked: Checked, bad_rows: BadRows) -> pl.DataFrame:
        columns = self.columns
        clean_ids(checked, columns.user)
        clean_ids(checked, columns.item)
        if columns.time:
            to_ticks(checked, columns.time, columns.time_unit)
        if columns.event:
            self._number_events(checked, bad_rows)
        if columns.value:
            keep_from(checked, columns.value, columns.min_value, bad_rows)
        frame = checked.frame
        zeros = np.zeros(len(frame), np.int64)
        return pl.DataFrame(
            {
                "user": frame[columns.user],
                "item": frame[columns.item],
                "time": frame[columns.time] if columns.time else zeros,
                "event": (
                    frame[columns.event] if columns.event else pl.Series(zeros, dtype=pl.Int32)
                ),
                "line": checked.line,
            }
        )

    def _number_events(self, checked: Checked, bad_rows: BadRows) -> None:
        """Turns event types into numbers, those that are left out into none."""
        column, weights = self.columns.event, self.columns.events
        types = pl.Enum(list(weights))
        texts = checked.frame[column].cast(pl.String)
        if not checked.is_plain:
            texts = texts.str.strip_chars(" ")
        checked.frame = checked.frame.with_columns(texts.cast(types, strict=False).alias(column))
        checked.leave_out(
            checked.frame[column].is_null(),
            "unknown_event",
            lambda place: (
                f"{column!r} is {_shown(texts[place])}; source.events knows "
                f"{', '.join(map(repr, weights))}; name it there, with weight 0 to leave it out"
            ),
        )
        number = checked.frame[column].to_physical().to_numpy().astype(np.int64)
        is_kept = np.array([weight > 0 for weight in weights.values()])
        if not is_kept.all():
            counts = np.bincount(number, minlength=len(weights))
            for name, count, keep in zip(weights, counts, is_kept, strict=True):
                if not keep:
                    bad_rows.leave_out(f"left_out_{name}", int(count))
            checked.keep(is_kept[number])
            number = number[is_kept[number]]
        place = np.cumsum(is_kept) - 1
        checked.frame = checked.frame.with_columns(pl.Series(column, place[number], dtype=pl.Int32))


def _shown(text: str | None) -> str:
    return "missing" if text is None else f"{text!r:.80}"


@dataclasses.dataclass(frozen=True)
class LogConfig(LogColumns):
    """Fields of every source of this kind; a source's own come after them.

    Attributes:
        interactions: file of the log, or a pattern that several files match (`day=*/*.csv`); they
            are read in order of their names.
        folder: where the files lie, if their names do not say.
        catalogue: file (or pattern) of the catalogue; "" for none: the items of the log.
        catalogue_format: "csv", "jsonl", "parquet" or "pylines" (Python dictionaries, one a line);
            "" tells the first three by the file's ending.
        item_id: column of item ids there; "" for the same as `item`.
        title: column of titles; "" for none.
        text: columns that, after the title, make up an item's text.
        attributes: columns whose values become attributes, as `column=value`.
        attribute_separator: parts an attribute's text into several values; "" for one value.
        columns: columns of texts or numbers that `items.parquet` keeps as they are, so that a
            server's rules (`price < 20`) can speak of them; see `pipelines.sources.carried`.
        delimiter: of CSV files: "," or any other ASCII characters, one or several; "\\\\t" is a
            tab.
        quote: of CSV files; "" where quotes mean nothing.
        encoding: of CSV files and JSON lines.
        catalogue_delimiter: of a catalogue in CSV; "" for the same as `delimiter`.
        catalogue_encoding: of the catalogue; "" for the same as `encoding`.
        catalogue_header: names of its columns, where a catalogue in CSV has no header.
    """

    interactions: str
    folder: str = ""
    catalogue: str = ""
    catalogue_format: str = ""
    item_id: str = ""
    title: str = ""
    text: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    attribute_separator: str = ""
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    catalogue_delimiter: str = ""
    catalogue_encoding: str = ""
    catalogue_header: tuple[str, ...] = ()

    def item_columns(self) -> ItemColumns:
        """Returns which column of the catalogue is what."""
        return ItemColumns(
            item_id=self.item_id or self.item,
            title=self.title,
            text=self.text,
            attributes=self.attributes,
            separator=self.attribute_separator,
            columns=self.columns,
        )

    def item_table(self, path: Path, name: str) -> Table:
        """Returns a file of the catalogue as a table.

        Raises:
            ValueError: its format is not known.
        """
        kind = self.catalogue_format or _format_of(path)
        encoding = self.catalogue_encoding or self.encoding
        if kind == "csv":
            delimiter = self.catalogue_delimiter or self.delimiter
            return csv_table(path, name, delimiter, self.quote, encoding, self.catalogue_header)
        for field, value, why in (
            ("header", ",".join(self.catalogue_header), "can lack their header"),
            ("delimiter", self.catalogue_delimiter, "have a delimiter"),
        ):
            if value:
                raise ValueError(
                    f"source.catalogue_{field} is {value!r}, but {path} is read as "
                    f"{kind or 'an unknown format'}; only CSV files {why}; set "
                    "source.catalogue_format=csv if it is one"
                )
        if kind == "jsonl":
            return JsonlTable(str(path), name, encoding)
        if kind == "pylines":
            return PyLinesTable(str(path), name, encoding)
        if kind == "parquet":
            return ParquetTable(str(path), name)
        raise ValueError(
            f"source.catalogue_format is {kind!r}, for {path}; it must be csv, jsonl, parquet or "
            "pylines"
        )


def csv_table(
    path: Path, name: str, delimiter: str, quote: str, encoding: str, header: Sequence[str] = ()
) -> CsvTable:
    """Returns a CSV file as a table; a delimiter of backslash and t is a tab, for command lines."""
    delimiter = delimiter.replace("\\t", "\t")
    return CsvTable(str(path), name, delimiter, quote, encoding, tuple(header))


def read_log(
    config: LogConfig,
    bad_rows: BadRows,
    table_of: Callable[[Path, str], Table],
    items_of: Sequence[Table] | None = None,
    further_inputs: Mapping[str, Path] | None = None,
) -> RawDataset:
    """Opens a log and reads its catalogue.

    Args:
        config: the fields.
        bad_rows: is told of what is wrong in the catalogue.
        table_of: makes a table of a file of the log and its name.
        items_of: the tables of the catalogue, where they are not what `config.catalogue` names.
        further_inputs: files that are read as well.

    Raises:
        ValueError: a missing file or column, fields that do not fit together, or a mistake in the
            catalogue.
    """
    inputs = dict(further_inputs or {})
    parts = []
    for name, path in input_files(config.folder, config.interactions, "the log"):
        inputs[name] = path
        table = table_of(path, name)
        check_columns(table, config.kinds(), "the log")
        parts.append(TablePart(table, config))
    tables = list(items_of or ())
    if config.catalogue:
        for name, path in input_files(config.folder, config.catalogue, "the catalogue"):
            inputs[name] = path
            tables.append(config.item_table(path, name))
    if not config.catalogue:
        for field in ("catalogue_header", "catalogue_delimiter"):
            if value := getattr(config, field):
                raise ValueError(
                    f"source.{field} is {value!r}, but source.catalogue names no CSV file that it "
                    "could be of"
                )
    if not tables:
        for field in ("title", "text", "attributes", "columns"):
            if value := getattr(config, field):
                raise ValueError(
                    f"source.{field} is {value!r}, but source.catalogue names no file to read it "
                    "from"
                )
    kept = config.kept()
    for name, weight in config.events.items():
        if not weight:
            bad_rows.leave_out(f"left_out_{name}", 0)
    if config.value:
        bad_rows.leave_out(BELOW, 0)
    return RawDataset(
        parts=tuple(parts),
        items=read_items(tables, config.item_columns(), bad_rows) if tables else None,
        inputs=inputs,
        has_times=bool(config.time),
        event_types=tuple(kept) or ("interaction",),
        event_weights=tuple(kept.values()),
        counts=bad_rows.left_out,  # filled while the parts are read
    )


def _format_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    for kind, endings in _FORMATS.items():
        if suffixes and suffixes[-1] in endings:
            return kind
    return ""
