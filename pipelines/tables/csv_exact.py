"""CSV line by line: what is a row where quotes are not what they seem, and where line ends are.

The grammar is RFC 4180's as Python's `csv` reads it: a quote at the start of a field opens it, a
pair inside is one quote, and behind the closing one stands a delimiter or the line's end. A quote
inside an unquoted field is a character like any other.

A quote that is lost or put in would swallow the rows behind it. So where a row of several lines
turns out to be none, only its first line is a mistake, and reading goes on at the next; ids and
times in lines that were part of it must have no quotes inside.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

import numpy as np
import polars as pl

from pipelines.tables import table as sizes
from pipelines.tables.csv_layout import CsvLayout, short
from pipelines.tables.table import Problem, Rows

_STANDS_IN = "\ufdd0"  # Unicode keeps it free for a program's own use: no text holds it


class ExactCsv:
    """Reads one file; blocks must come in order."""

    def __init__(self, layout: CsvLayout) -> None:
        self._layout = layout
        self._written = _Written(layout.delimiter, layout.quote)
        self._distrusted = 0  # lines up to this one were part of a row that is broken

    def is_needed(self, line: int) -> bool:
        """Returns whether the row that begins at `line` must be read here."""
        return line <= self._distrusted

    def rows(self, data: bytes, first_line: int, *, is_last: bool) -> tuple[Rows, int]:
        """Returns the rows of whole lines, and how many bytes of `data` they take.

        A row that goes on behind the data is left for the next call, together with what follows.

        Args:
            data: lines that all end in a line feed, from the beginning of a row on.
            first_line: number of the first.
            is_last: nothing follows.
        """
        layout = self._layout
        try:
            lines = data.decode().split("\n")
            is_text = True
        except UnicodeDecodeError:
            lines = data.decode("utf-8", "surrogateescape").split("\n")
            is_text = False
        lines.pop()
        problems: list[Problem] = []
        places = list(layout.columns.values())
        values: list[list[str]] = [[] for _ in places]
        numbers: list[int] = []
        at = 0
        while at < len(lines):
            text, line = lines[at], first_line + at
            if not text:
                at += 1
                continue
            if layout.quote and layout.quote in text:
                row = self._quoted(lines, at, line, is_last=is_last)
                if row is None:
                    break
                fields, stop = row
            else:
                fields, stop = text.split(layout.delimiter), at + 1
            if isinstance(fields, Problem):
                problems.append(fields)
            elif len(fields) != layout.num_fields:
                problems.append(layout.wrong_count(line, len(fields), text))
                stop = at + 1
            elif not is_text and not _is_utf8(lines[at:stop]):
                raw = "\n".join(lines[at:stop]).encode("utf-8", "surrogateescape")
                problems.append(layout.not_utf8(line, raw))
            else:
                for column, place in zip(values, places, strict=True):
                    column.append(fields[place])
                numbers.append(line)
            at = stop
        rest = "".join(f"{text}\n" for text in lines[at:])
        frame = pl.DataFrame(
            dict(zip(layout.columns, values, strict=True)),
            schema=dict.fromkeys(layout.columns, pl.String),
        )
        used = len(data) - len(rest.encode("utf-8", "surrogateescape"))
        return Rows(frame, np.array(numbers, np.int64), problems), used

    def _quoted(
        self, lines: list[str], at: int, line: int, *, is_last: bool
    ) -> tuple[list[str] | Problem, int] | None:
        """The fields of the row at a place, or its mistake, and where the next one begins.

        None: it goes on behind the lines.
        """
        layout = self._layout
        feed = _Feed(lines, at, self._written)
        where = f"{layout.name}, line {line}"
        try:
            fields = self._written.fields(feed)
        except csv.Error as error:
            if feed.ran_out and not is_last:
                return None
            if "field larger than field limit" in str(error):
                what = f"{where}: a field of more than {csv.field_size_limit()} characters: "
                problem = Problem(line, "field_too_long", what + short(lines[at]))
            elif feed.ran_out or feed.is_too_long:
                what = (
                    f"{where}: a quote opens a field and none closes it in the "
                    f"{feed.at - at} lines from here on: {short(lines[at])}"
                )
                problem = Problem(line, "unclosed_quote", what)
            else:
                what = f"{where}: a quoted field does not end at its quote ({error}): "
                problem = Problem(line, "misplaced_quote", what + short(lines[at]))
            self._distrust(line, feed.at - at)
            return problem, at + 1
        stop = feed.at
        if line <= self._distrusted and len(fields) == layout.num_fields:
            for name in layout.single_line:
                if layout.quote in fields[layout.columns[name]]:
                    what = (
                        f"{where}: {name!r} is {short(fields[layout.columns[name]])}, with a quote "
                        "inside, in a line that a quote before it may have made part of a field"
                    )
                    return Problem(line, "misplaced_quote", what), at + 1
        if stop > at + 1 and len(fields) != layout.num_fields:
            self._distrust(line, stop - at)
        elif stop > at + 1:
            for name in layout.single_line:
                value = fields[layout.columns[name]]
                if "\n" in value:
                    self._distrust(line, stop - at)
                    what = (
                        f"{where}: {name!r} is {short(value)}, with a line end inside; is a quote "
                        "missing?"
                    )
                    return Problem(line, "control_character", what), at + 1
        return fields, stop

    def _distrust(self, line: int, num_lines: int) -> None:
        self._distrusted = max(self._distrusted, line + num_lines - 1)


def split_line(text: str, layout: CsvLayout) -> list[str] | None:
    """Returns the fields of a line, None where its quotes do not fit."""
    if not layout.quote:
        return text.split(layout.delimiter)
    try:
        written = _Written(layout.delimiter, layout.quote)
        return written.fields(iter([written.feed(text)]))
    except csv.Error:
        return None


class _Written:
    """Python's reader, which knows delimiters of one character, for those of several as well.

    A delimiter of several stands as one character while a row is read, and is put back in the
    fields, where it stood inside quotes.
    """

    def __init__(self, delimiter: str, quote: str) -> None:
        self._delimiter, self._quote = delimiter, quote
        self._one = delimiter if len(delimiter) == 1 else _STANDS_IN

    def feed(self, text: str) -> str:
        """Returns a line for `fields`.

        Raises:
            csv.Error: it holds the character that stands in for the delimiter.
        """
        if self._one == self._delimiter:
            return text
        if self._one in text:
            raise csv.Error(f"the character {self._one!r} is inside")
        return text.replace(self._delimiter, self._one)

    def fields(self, lines: Iterator[str]) -> list[str]:
        """Returns the fields of the first row of lines.

        Raises:
            csv.Error: its quotes do not fit, or a field is too long.
        """
        row = next(csv.reader(lines, delimiter=self._one, quotechar=self._quote, strict=True))
        if self._one == self._delimiter:
            return row
        return [field.replace(self._one, self._delimiter) for field in row]


class _Feed(Iterator[str]):
    """Gives lines to a `csv.reader` and knows how many it took."""

    def __init__(self, lines: list[str], at: int, written: _Written) -> None:
        self._lines = lines
        self._written = written
        self.at = at
        self._chars = 0
        self.ran_out = False
        self.is_too_long = False

    def __next__(self) -> str:
        if self.at == len(self._lines):
            self.ran_out = True
            raise StopIteration
        if self._chars > sizes.MAX_FIELD_CHARS:
            self.is_too_long = True
            raise StopIteration
        text = self._written.feed(self._lines[self.at]) + "\n"
        self.at += 1
        self._chars += len(text)
        return text


def _is_utf8(lines: list[str]) -> bool:
    try:
        for text in lines:
            text.encode()
    except UnicodeEncodeError:
        return False
    return True
