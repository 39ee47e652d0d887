"""JSON lines: an object a line, perhaps compressed.

Python's `json` says what is right. Where every line of a block is an object of plain values, which
a few counts over its bytes can tell, Polars reads it, ten times as fast.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
import polars as pl

from pipelines.tables.csv_layout import not_utf8_message, short
from pipelines.tables.objects import FloatText, WrongTypeError, check_unicode, list_of, text_of
from pipelines.tables.table import Kind, Problem, Rows, no_rows, truncated, without_rows
from pipelines.tables.text_file import check_encoding, text_blocks

_FIRST_BYTES = 1 << 20  # in which every column must occur at least once
_SMALL = 64 << 10  # bytes that are not worth a second try to read them fast

_EXACT = 1 << 53  # up to here a float holds every whole number

# What a value may begin with for both readers to see the same in it: a longer number would be
# rounded, and true, null or a list become text.
_PLAIN_VALUE = {
    "id": rb'(?:"|(?:-?[1-9]\d{0,17}|0)\s*[,}])',
    "event": rb'(?:"|(?:-?[1-9]\d{0,17}|0)\s*[,}])',
    "number": rb'(?:"|-?(?:[1-9]\d{0,9}|0)(?:\.\d{1,5})?\s*[,}])',
    "time": rb'(?:"|(?:-?[1-9]\d{0,17}|0|[1-9]\d{0,9}\.\d{1,5})\s*[,}])',
}


@dataclasses.dataclass(frozen=True)
class JsonlTable:
    """A file of JSON lines.

    Attributes:
        path: where it lies; `.gz` and `.zst` are decompressed.
        name: what errors call it.
        encoding: of the text.
        is_exact: read every line by Python; the result is the same.
    """

    path: str
    name: str
    encoding: str = "utf-8"
    is_exact: bool = False

    place = "line"

    def __post_init__(self):
        check_encoding(self.encoding)

    def columns(self) -> list[str]:
        """Returns the keys that occur in the first MiB; [] where no line is an object."""
        names: dict[str, None] = {}
        for block in text_blocks(self.path, self.encoding, _FIRST_BYTES):
            for line in block.data.split(b"\n"):
                value = _object(line.decode("utf-8", "replace"))
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
        """The rows of whole lines; a mistake sends only its neighbourhood to the slow way."""
        rows = None if self.is_exact else _fast_rows(data, first_line, columns)
        if rows is not None:
            yield rows
        elif self.is_exact or len(data) <= _SMALL or not _PLAIN_VALUE.keys() >= {*columns.values()}:
            yield self._exact_rows(data, first_line, columns)
        else:
            half = data.rfind(b"\n", 0, len(data) // 2) + 1
            if not half:
                yield self._exact_rows(data, first_line, columns)
                return
            yield from self._block(data[:half], first_line, columns)
            second_line = first_line + data.count(b"\n", 0, half)
            yield from self._block(data[half:], second_line, columns)

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
        value = _object(text)
        if isinstance(value, str):
            message = f"{where}: not a JSON object: {value}: {short(text)}"
            return Problem(line, "not_json", message)
        if isinstance(value, _WithDuplicates):
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
                message = f"{where}: {name!r} is {_shown(entry)}; it must be {error}"
                return Problem(line, error.reason, message)
        return row


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, FloatText) else f"{value!a:.80}"


class _WithDuplicates(dict[str, Any]):
    """An object with keys that are there twice."""

    duplicates: set[str]


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    value = _WithDuplicates(pairs)
    keys = [key for key, _ in pairs]
    value.duplicates = {key for key in keys if keys.count(key) > 1}
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


_decode = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_float=FloatText, parse_constant=_no_constant
).decode


def _object(text: str) -> dict[str, Any] | str:
    """The object in a line, or why there is none."""
    try:
        value = _decode(text)
    except (ValueError, RecursionError) as error:
        return str(error)
    if not isinstance(value, dict):
        return f"it is a {type(value).__name__}"
    return value


def _fast_rows(data: bytes, first_line: int, columns: Mapping[str, Kind]) -> Rows | None:
    """The rows of whole lines, or None where they are not plain enough to be sure."""
    num_rows = data.count(b"\n")
    if b"\\" in data:  # keys may be spelled with escapes
        return None
    keys = {
        name: json.dumps(name, ensure_ascii=False).encode("utf-8", "replace") for name in columns
    }
    for name, key in keys.items():
        if columns[name] not in _PLAIN_VALUE or b"\\" in key or data.count(key) != num_rows:
            return None
    try:
        frame = pl.read_ndjson(data, schema=dict.fromkeys(columns, pl.String))
    except pl.exceptions.PolarsError:
        return None
    if len(frame) != num_rows or any(frame.null_count().row(0)):
        return None
    for name, key in keys.items():
        if not _are_plain(data, key, columns[name], frame[name]):
            return None
    return Rows(frame, np.arange(first_line, first_line + num_rows))


def _are_plain(data: bytes, key: bytes, kind: Kind, values: pl.Series) -> bool:
    """Whether all values of a key are what their text shows: none was rounded, or of another type.

    The key is there once a line.
    """
    if kind == "time":
        numbers = values.cast(pl.Int64, strict=False)
        if not numbers.null_count() and not (numbers.abs() >= _EXACT).any():
            return True
    elif data.count(key + b':"') + data.count(key + b': "') == len(values):
        return True
    pattern = re.escape(key) + rb"\s*:\s*" + _PLAIN_VALUE[kind]
    return len(re.findall(pattern, data)) == len(values)
