"""Lines that hold an object each, whichever notation spells it: keys are columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import polars as pl

from pipelines.tables.csv_layout import not_utf8_message, short
from pipelines.tables.objects import FloatText, WrongTypeError, check_unicode, list_of, text_of
from pipelines.tables.table import Kind, Problem, Rows, no_rows, truncated, without_rows
from pipelines.tables.text_file import check_encoding, text_blocks

_FIRST_BYTES = 1 << 20  # in which every column must occur at least once


@dataclasses.dataclass(frozen=True)
class ObjectLines:
    """A file of such lines; a subclass says how one is read.

    Attributes:
        path: where it lies; `.gz` and `.zst` are decompressed.
        name: what errors call it.
        encoding: of the text.
    """

    path: str
    name: str
    encoding: str = "utf-8"

    place = "line"
    reason: ClassVar[str]  # why a line is left out, as in `BadRows.add`
    what: ClassVar[str]  # a line must hold

    def __post_init__(self):
        check_encoding(self.encoding)

    def parse(self, text: str) -> dict[str, Any] | str:
        """Returns the object in a line, or why the line holds none."""
        raise NotImplementedError

    def columns(self) -> list[str]:
        """Returns the keys that occur in the first MiB; [] where no line is an object."""
        names: dict[str, None] = {}
        for block in text_blocks(self.path, self.encoding, _FIRST_BYTES):
            for line in block.data.split(b"\n"):
                value = self.parse(line.decode("utf-8", "replace"))
                if isinstance(value, dict):
                    names.update(dict.fromkeys(value))
            break
        return list(names)

    def rows(self, columns: Mapping[str, Kind]) -> Iterator[Rows]:
        """Yields the rows: String, or List(String) for the kind "list"; see `Table.rows`."""
        num_rows, line, is_truncated = 0, 1, False
        for block in text_blocks(self.path, self.encoding):
            line, is_truncated = block.first_line + block.num_lines, block.truncated
            for rows in self._block(block.data, block.first_line, columns):
                num_rows += len(rows.line) + len(rows.problems)
                yield rows
        if is_truncated:
            yield no_rows(columns, truncated(self.name, line - 1))
        elif not num_rows:
            yield no_rows(columns, without_rows(self.name, has_header=False))

    def _block(self, data: bytes, first_line: int, columns: Mapping[str, Kind]) -> Iterator[Rows]:
        """The rows of whole lines."""
        yield self._exact_rows(data, first_line, columns)

    def _exact_rows(self, data: bytes, first_line: int, columns: Mapping[str, Kind]) -> Rows:
        values: dict[str, list[Any]] = {name: [] for name in columns}
        numbers: list[int] = []
        problems: list[Problem] = []
        for line, raw in enumerate(data.split(b"\n")[:-1], start=first_line):
            if not raw or raw.isspace():
                continue
            row = self._row(raw, line, columns)
            if isinstance(row, Problem):
                problems.append(row)
                continue
            for name, value in row.items():
                values[name].append(value)
            numbers.append(line)
        schema = {
            name: pl.List(pl.String) if kind == "list" else pl.String()
            for name, kind in columns.items()
        }
        frame = pl.DataFrame(values, schema=schema)
        return Rows(frame, np.array(numbers, np.int64), problems)

    def _row(self, raw: bytes, line: int, columns: Mapping[str, Kind]) -> dict[str, Any] | Problem:
        where = f"{self.name}, line {line}"
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            message = not_utf8_message(self.name, line, error.start + 1, raw[error.start])
            return Problem(line, "not_utf8", message)
        value = self.parse(text)
        if isinstance(value, str):
            message = f"{where}: not {self.what}: {value}: {short(text)}"
            return Problem(line, self.reason, message)
        if isinstance(value, WithDuplicates):
            for name in columns:
                if name in value.duplicates:
                    message = f"{where}: key {name!r} is there more than once: {short(text)}"
                    return Problem(line, "duplicate_key", message)
        row: dict[str, Any] = {}
        for name, kind in columns.items():
            entry = value.get(name)
            try:
                if kind == "list":
                    row[name] = list_of(entry)
                elif type(entry) is str:  # most are
                    check_unicode(entry)
                    row[name] = entry
                else:
                    row[name] = text_of(entry, kind)
            except WrongTypeError as error:
                message = f"{where}: {name!r} is {shown(entry)}; it must be {error}"
                return Problem(line, error.reason, message)
        return row


def shown(value: Any) -> str:
    """Returns a value for a message, cut where it is long."""
    try:
        return f"{value:.80}" if isinstance(value, FloatText) else f"{value!a:.80}"
    except (ValueError, RecursionError):  # more digits than Python writes, or levels
        return f"a {type(value).__name__} too large to be shown"


class WithDuplicates(dict[str, Any]):
    """An object with keys that are there twice."""

    duplicates: set[str]


def from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object of keys and values, `WithDuplicates` where it must be."""
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    value = WithDuplicates(pairs)
    seen: set[str] = set()
    value.duplicates = {key for key, _ in pairs if key in seen or seen.add(key)}
    return value
