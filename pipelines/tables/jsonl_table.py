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

from pipelines.tables.object_lines import ObjectLines, from_pairs
from pipelines.tables.objects import FloatText
from pipelines.tables.table import Kind, Rows

_SMALL = 64 << 10  # bytes that are not worth a second try to read them fast

_MOST_DIGITS = 4000  # Python itself refuses 4,300
_LONG_NUMBER = re.compile(r"\d{4000}")
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
class JsonlTable(ObjectLines):
    """A file of JSON lines.

    Attributes:
        path: where it lies; `.gz` and `.zst` are decompressed.
        name: what errors call it.
        encoding: of the text.
        is_exact: read every line by Python; the result is the same.
    """

    is_exact: bool = False

    reason = "not_json"
    what = "a JSON object"

    def parse(self, text: str) -> dict[str, Any] | str:
        """Returns the object in a line, or why the line holds none."""
        try:
            value = _decode(text)
        except (ValueError, RecursionError) as error:
            if not _LONG_NUMBER.search(text):
                return str(error)
            try:  # it may stand where nothing is read
                value = _decode_long(text)
            except (ValueError, RecursionError) as second:
                return str(second)
        if not isinstance(value, dict):
            return f"it is a {type(value).__name__}"
        return value

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


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _whole(text: str) -> int | FloatText:
    return FloatText(text) if len(text) > _MOST_DIGITS else int(text)


_decode = json.JSONDecoder(
    object_pairs_hook=from_pairs, parse_float=FloatText, parse_constant=_no_constant
).decode
# Slower; a number of more digits stays text.
_decode_long = json.JSONDecoder(
    object_pairs_hook=from_pairs,
    parse_float=FloatText,
    parse_constant=_no_constant,
    parse_int=_whole,
).decode


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
