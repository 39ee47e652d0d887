"""Reads CSV and its kin: fast where a block is plainly sound, row by row where it may not be.

A block that passes some exact counts goes to Polars. Any other, and so any with a mistake in it,
is read by Python's csv module, one record at a time, so that a mistake has a line. Both give the
same rows where the block is sound.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.bad_rows import BadRows
from pipelines.readers.reader import check_columns, shown
from pipelines.readers.streams import Block, DamagedFileError, line_blocks

_BLOCK_BYTES = 1 << 24
# A suspicious block is cut up as far as this, so that one bad row does not make many slow.
_SMALLEST_BLOCK = 1 << 16
# A quoted field may hold so many newlines; more is taken for a quote that nobody closed.
_MOST_LINES = 1000


@dataclasses.dataclass(frozen=True)
class Delimited:
    """Text with a separator.

    Attributes:
        separator: one ASCII character.
        quote: one ASCII character, doubled inside a quoted field, or empty for none.
        encoding: a Python codec that holds ASCII as it is.
        header_line: whether the first line names the columns; else they are "1", "2", ….
        block_bytes: bytes that are read at one time.
    """

    separator: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    header_line: bool = True
    block_bytes: int = _BLOCK_BYTES

    def __post_init__(self):
        for field, value, least in (("separator", self.separator, 1), ("quote", self.quote, 0)):
            if not least <= len(value) <= 1 or not value.isascii() or value in ("\n", "\r"):
                raise ValueError(f"{field} is {value!r}; it must be one ASCII character")
        if self.separator == self.quote:
            raise ValueError(f"separator and quote are both {self.quote!r}; they must differ")
        probe = f'a{self.separator}{self.quote}\n0"'
        try:
            is_ascii = probe.encode(self.encoding) == probe.encode("ascii")
        except LookupError:
            raise ValueError(f"encoding is {self.encoding!r}; Python knows no such codec") from None
        if not is_ascii:
            raise ValueError(f"encoding is {self.encoding!r}; save the file as UTF-8")

    def frames(
        self, path: Path, columns: Sequence[str], bad_rows: BadRows
    ) -> Iterator[pl.DataFrame]:
        """Yields the rows; see `Reader.frames`. All values are text.

        Raises:
            ValueError: a missing column, a file that is empty, holds only a header or is cut off,
                or a row that does not parse.
        """
        table: _Table | None = None
        num_rows = 0
        try:
            for block in line_blocks(path, self.block_bytes, self.quote.encode()):
                if table is None:
                    table, block = self._open(path, block, columns, bad_rows)
                for frame in table.read(block):
                    num_rows += len(frame)
                    yield frame
        except DamagedFileError as error:
            bad_rows.add("truncated_file", str(error))
        if table is None:
            raise ValueError(f"{path}: the file is empty")
        if not num_rows and not bad_rows.counts:
            raise ValueError(f"{path}: the file holds a header and no rows")

    def header(self, path: Path) -> list[str]:
        """Returns the names of a file's columns.

        Raises:
            ValueError: the file is empty or damaged, or its first record does not parse.
        """
        block = next(line_blocks(path, 1 << 16, self.quote.encode()), None)
        if block is None:
            raise ValueError(f"{path}: the file is empty")
        return self._names(path, _Records(block, self))

    def _names(self, path: Path, records: _Records) -> list[str]:
        line, fields, problem = next(records)
        if fields is None:
            raise ValueError(f"{path}, line {line}: the header does not parse: {problem}")
        return fields if self.header_line else [str(place + 1) for place in range(len(fields))]

    def _open(
        self, path: Path, block: Block, columns: Sequence[str], bad_rows: BadRows
    ) -> tuple[_Table, Block]:
        """Reads the header: returns what reads the rest, and the block behind it."""
        records = _Records(block, self)
        names = self._names(path, records)
        if self.header_line:
            block = Block(block.data[records.position :], records.line)
        check_columns(path, columns, names)
        places = [names.index(column) for column in columns]
        return _Table(path, self, columns, places, len(names), bad_rows), block


class _Table:
    """Reads blocks of records that all have the same columns."""

    def __init__(
        self,
        path: Path,
        layout: Delimited,
        columns: Sequence[str],
        places: Sequence[int],
        width: int,
        bad_rows: BadRows,
    ) -> None:
        self._path, self._layout, self._columns = path, layout, list(columns)
        self._places, self._width, self._bad_rows = list(places), width, bad_rows

    def read(self, block: Block) -> Iterator[pl.DataFrame]:
        """Yields the rows of a block."""
        if not block.data:
            return
        frame = self._read_fast(block)
        quote = self._layout.quote.encode()
        if frame is not None:
            yield frame
        elif len(block.data) > _SMALLEST_BLOCK and not (quote and quote in block.data):
            middle = block.data.find(b"\n", len(block.data) // 2) + 1
            line = block.line + block.data.count(b"\n", 0, middle)
            yield from self.read(Block(block.data[:middle], block.line))
            yield from self.read(Block(block.data[middle:], line))
        else:
            frame = self._read_exactly(block)
            if len(frame):
                yield frame

    def _read_fast(self, block: Block) -> pl.DataFrame | None:
        """Returns the rows, or None if anything looks as if it were not sound."""
        data = block.data
        if not data.isascii() or self._layout.encoding.lower() not in ("utf-8", "utf8"):
            try:
                data = data.decode(self._layout.encoding).encode()
            except UnicodeDecodeError:
                return None
        if b"\r" in data:
            if data.count(b"\r") != data.count(b"\r\n"):
                return None
            data = data.replace(b"\r\n", b"\n")
        if b"\0" in data:
            return None
        separator, quote = self._layout.separator.encode(), self._layout.quote.encode()
        if quote and quote in data:
            lines = _lines_of_quoted(data, separator, quote, self._width)
            if lines is None:
                return None
            num_rows = len(lines)
        else:
            lines, num_rows = None, data.count(b"\n")
            if data.count(separator) != num_rows * (self._width - 1) or b"\n\n" in data:
                return None
            if data.startswith(b"\n"):
                return None
        if not num_rows:
            return None
        try:
            frame = pl.read_csv(
                data,
                has_header=False,
                infer_schema=False,
                separator=self._layout.separator,
                quote_char=self._layout.quote or None,
                columns=sorted(set(self._places)),
            )
        except pl.exceptions.PolarsError:
            return None
        if len(frame) != num_rows:
            return None
        order = sorted(set(self._places))
        series = [
            frame.to_series(order.index(place)).alias(name)
            for name, place in zip(self._columns, self._places, strict=True)
        ]
        number = np.arange(num_rows, dtype=np.int64) if lines is None else lines
        return pl.DataFrame([*series, pl.Series("line", number + block.line)])

    def _read_exactly(self, block: Block) -> pl.DataFrame:
        """Returns the rows that parse, and tells of the others."""
        lines: list[int] = []
        rows: list[list[str | None]] = []
        for line, fields, problem in _Records(block, self._layout, self._width):
            if fields is not None and len(fields) != self._width:
                problem = f"{len(fields)} fields, but the header has {self._width}"
            if problem:
                reason = "not_in_encoding" if problem.startswith("not ") else "row_does_not_parse"
                self._bad_rows.add(reason, f"{self._path}, line {line}: {problem}")
            elif fields is not None:
                lines.append(line)
                rows.append([fields[place] or None for place in self._places])
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(self._columns)
        series = [
            pl.Series(name, values, dtype=pl.String)
            for name, values in zip(self._columns, columns, strict=True)
        ]
        return pl.DataFrame([*series, pl.Series("line", lines, dtype=pl.Int64)])


def _lines_of_quoted(data: bytes, separator: bytes, quote: bytes, width: int) -> np.ndarray | None:
    """Returns the line of each record, from 0; None if the quotes are not plainly sound."""
    characters = np.frombuffer(data, np.uint8)
    is_quote = characters == quote[0]
    inside = np.bitwise_xor.accumulate(is_quote.view(np.uint8)).view(bool)
    if inside[-1]:
        return None
    is_newline = characters == ord("\n")
    record_end = is_newline & ~inside
    num_rows = int(np.count_nonzero(record_end))
    if np.count_nonzero((characters == separator[0]) & ~inside) != num_rows * (width - 1):
        return None
    # A quote opens behind a separator, a newline or a quote, and closes before one of them.
    edge = is_quote | (characters == separator[0]) | is_newline
    opens, closes = np.flatnonzero(is_quote & inside), np.flatnonzero(is_quote & ~inside)
    if not edge[opens[opens > 0] - 1].all() or not edge[closes + 1].all():
        return None
    starts = np.concatenate([[0], np.flatnonzero(record_end)[:-1] + 1])
    if is_newline[starts].any():
        return None
    return np.searchsorted(np.flatnonzero(is_newline), starts).astype(np.int64)


class _Records(Iterator[tuple[int, list[str] | None, str]]):
    """The records of a block: (line, fields, problem), one of the last two.

    Where a record does not parse, its first line is taken for the bad one, and reading goes on at
    the next.
    """

    def __init__(self, block: Block, layout: Delimited, width: int | None = None) -> None:
        self._data, self._layout, self._width = block.data, layout, width
        self.position, self.line = 0, block.line

    def __next__(self) -> tuple[int, list[str] | None, str]:
        if self.position >= len(self._data):
            raise StopIteration
        line, start = self.line, self.position
        end = self._data.find(b"\n", start) + 1 or len(self._data)
        quote = self._layout.quote.encode()
        first_end = end
        if quote:
            quotes, num_lines = self._data.count(quote, start, end), 1
            while quotes % 2 and end < len(self._data) and num_lines < _MOST_LINES:
                next_end = self._data.find(b"\n", end) + 1 or len(self._data)
                quotes += self._data.count(quote, end, next_end)
                end, num_lines = next_end, num_lines + 1
            if quotes % 2:
                end = first_end
        fields, problem = self._parse(self._data[start:end])
        is_whole = fields is not None and self._width in (None, len(fields))
        if end > first_end and not is_whole:
            end = first_end
            fields, problem = self._parse(self._data[start:end])
        self.position = end
        self.line += self._data.count(b"\n", start, end)
        return line, fields, problem

    def _parse(self, data: bytes) -> tuple[list[str] | None, str]:
        try:
            text = data.decode(self._layout.encoding)
        except UnicodeDecodeError as error:
            return None, (
                f"not {self._layout.encoding} at byte {error.start + 1} of the row: "
                f"{shown(data[max(0, error.start - 10) : error.start + 10])}; name the file's "
                "encoding, such as latin-1, or save it as UTF-8"
            )
        text = text.removesuffix("\n").removesuffix("\r")
        if "\0" in text:
            return None, f"holds a NUL character: {shown(text)}"
        if not text:
            return None, "an empty row"
        if not self._layout.quote:
            if "\r" in text:
                return None, f"holds a carriage return: {shown(text)}"
            return text.split(self._layout.separator), ""
        try:
            rows = list(
                csv.reader(
                    [text],
                    delimiter=self._layout.separator,
                    quotechar=self._layout.quote,
                    strict=True,
                )
            )
        except csv.Error as error:
            return None, f"{error}: {shown(text)}"
        if len(rows) != 1:
            return None, f"does not parse: {shown(text)}"
        return rows[0], ""
