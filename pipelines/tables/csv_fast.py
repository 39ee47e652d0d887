"""CSV lines at the speed of memory: NumPy checks their structure, Polars cuts the fields.

Lines that do not fit are left out by number. What NumPy cannot judge (a quote in the middle of a
field, a quoted line end, a lone carriage return) goes to `csv_exact`, which says what is right.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

from pipelines.tables import table as sizes
from pipelines.tables.csv_layout import CsvLayout
from pipelines.tables.table import Problem, Rows

_LINE_FEED = 10
_PRINTING = 33  # below are control characters and the space
_UTF8_MARK = b"\xef\xbb\xbf"


def fast_rows(data: bytes, first_line: int, layout: CsvLayout) -> Rows | None:
    """Returns the rows of whole lines, or None where `csv_exact` must look.

    Args:
        data: lines that all end in a line feed, from the beginning of a row on.
        first_line: number of the first.
        layout: how they are written.
    """
    if b"\r" in data or data.startswith(_UTF8_MARK):  # Polars would drop either
        return None
    array = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(array == _LINE_FEED)
    delimiters = np.flatnonzero(array == ord(layout.delimiter))
    if layout.quote and layout.quote.encode() in data:
        quotes = np.flatnonzero(array == ord(layout.quote))
        if not _quotes_are_plain(array, quotes, ends, ord(layout.delimiter)):
            return None
        delimiters = delimiters[np.searchsorted(quotes, delimiters) % 2 == 0]
    is_right, problems = _right_lines(data, first_line, ends, delimiters, layout)
    line = np.arange(first_line, first_line + len(ends))
    if is_right is not None:
        line = line[is_right]
        data = _kept(data, ends, is_right)
    frame = _cut(data, layout)
    if frame is None or len(frame) != len(line):
        return None
    num_line_ends = len(ends) + (len(delimiters) if ord(layout.delimiter) < _PRINTING else 0)
    is_plain = (
        data.isascii()
        and b"\x7f" not in data
        and np.count_nonzero(array < _PRINTING) == num_line_ends
    )
    return Rows(frame, line, problems, is_plain=is_plain)


def _quotes_are_plain(
    array: np.ndarray, quotes: np.ndarray, ends: np.ndarray, delimiter: int
) -> bool:
    """Whether each quote opens or closes a whole field, or is one of a pair inside of it."""
    if len(quotes) % 2:
        return False
    opens, closes = quotes[::2], quotes[1::2]
    before = array[opens - 1]  # of a quote at the very start this is the last line's end
    after = array[closes + 1]  # the data ends in a line feed
    is_pair = closes[:-1] + 1 == opens[1:]
    starts = (before == delimiter) | (before == _LINE_FEED)
    starts[1:] |= is_pair
    stops = (after == delimiter) | (after == _LINE_FEED)
    stops[:-1] |= is_pair
    if not (starts.all() and stops.all()):
        return False
    lines_before = np.searchsorted(ends, quotes)
    return bool((lines_before[::2] == lines_before[1::2]).all()) and bool(
        (closes - opens).max() < sizes.MAX_FIELD_CHARS
    )


def _right_lines(
    data: bytes,
    first_line: int,
    ends: Int64[np.ndarray, " n"],
    delimiters: Int64[np.ndarray, " d"],
    layout: CsvLayout,
) -> tuple[Bool[np.ndarray, " n"] | None, list[Problem]]:
    """Which lines are rows (None: all), and what is wrong with the others."""
    per_row = layout.num_fields - 1
    problems: list[Problem] = []
    is_right: np.ndarray | None = None
    if not _all_fit(ends, delimiters, per_row):
        count = np.diff(np.searchsorted(delimiters, ends), prepend=0)
        is_empty = np.diff(ends, prepend=-1) == 1
        is_right = (count == per_row) & ~is_empty
        wrong = np.flatnonzero((count != per_row) & ~is_empty)
        for place in wrong.tolist():
            text = _line(data, ends, place).decode("utf-8", "replace")
            problems.append(layout.wrong_count(first_line + place, int(count[place]) + 1, text))
    if not data.isascii() and not _is_utf8(data):
        is_right = np.ones(len(ends), bool) if is_right is None else is_right
        for place, text in enumerate(data.split(b"\n")[:-1]):
            if is_right[place] and not text.isascii() and not _is_utf8(text):
                is_right[place] = False
                problems.append(layout.not_utf8(first_line + place, text))
    return is_right, problems


def _all_fit(ends: np.ndarray, delimiters: np.ndarray, per_row: int) -> bool:
    """Whether every line has `per_row` delimiters; the way for blocks without a mistake."""
    if not per_row or not len(ends) or len(delimiters) != len(ends) * per_row:
        return False
    by_row = delimiters.reshape(len(ends), per_row)
    return bool((by_row[:, -1] < ends).all() and (by_row[1:, 0] > ends[:-1]).all())


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _line(data: bytes, ends: np.ndarray, place: int) -> bytes:
    return data[int(ends[place - 1]) + 1 if place else 0 : int(ends[place])]


def _kept(data: bytes, ends: np.ndarray, keep: np.ndarray) -> bytes:
    """The lines that `keep` marks."""
    starts = np.concatenate(([0], ends[:-1] + 1))
    edges = np.flatnonzero(np.diff(keep, prepend=False, append=False))
    return b"".join(
        data[starts[first] : ends[last - 1] + 1]
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    )


def _cut(data: bytes, layout: CsvLayout) -> pl.DataFrame | None:
    schema = {f"{place}": pl.String for place in range(layout.num_fields)}
    named = [pl.col(f"{place}").alias(name) for name, place in layout.columns.items()]
    if not data:
        return pl.DataFrame(schema=dict.fromkeys(layout.columns, pl.String))
    try:
        return (
            pl.scan_csv(
                data,
                has_header=False,
                schema=schema,
                separator=layout.delimiter,
                quote_char=layout.quote or None,
            )
            .select(named)
            .with_columns(pl.all().fill_null(""))
            .collect()
        )
    except pl.exceptions.PolarsError:
        return None
