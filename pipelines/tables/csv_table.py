"""CSV and its kin: fields between delimiters, perhaps quoted, perhaps compressed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

from pipelines.tables.csv_exact import ExactCsv, split_line
from pipelines.tables.csv_fast import fast_rows
from pipelines.tables.csv_layout import CsvLayout, not_utf8_message, short
from pipelines.tables.table import Kind, Rows, no_rows, truncated, without_rows
from pipelines.tables.text_file import TextBlock, check_encoding, text_blocks

_HEADER_BYTES = 64 << 10
_MAX_FIELDS = 10_000
_SMALL = 64 << 10  # bytes that are not worth a second try to read them fast


@dataclasses.dataclass(frozen=True)
class CsvTable:
    """A CSV file.

    Attributes:
        path: where it lies; `.gz` and `.zst` are decompressed.
        name: what errors call it.
        delimiter: one or more ASCII characters.
        quote: one ASCII character, or "" where quotes mean nothing.
        encoding: of the text.
        header: names of the columns, where the file itself has no header.
        is_exact: read line by line what can be read in blocks; the result is the same.
    """

    path: str
    name: str
    delimiter: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    header: tuple[str, ...] = ()
    is_exact: bool = False

    place = "line"

    def __post_init__(self):
        check_encoding(self.encoding)
        for field, character in (("delimiter", self.delimiter), ("quote", self.quote)):
            if field == "quote" and not character:
                continue
            is_count_right = len(character) == 1 or (field == "delimiter" and character)
            if not is_count_right or not character.isascii() or set(character) & {"\r", "\n"}:
                count = "one ASCII character or more" if field == "delimiter" else "one"
                raise ValueError(f"{field} is {character!r}; it must be {count}, and no line end")
        if self.quote and self.quote in self.delimiter:
            raise ValueError(
                f"delimiter is {self.delimiter!r} and quote {self.quote!r}; the quote must not be "
                "part of the delimiter"
            )

    def columns(self) -> list[str]:
        """Returns the header's names; [] for an empty file.

        Raises:
            ValueError: the first line is not a header.
        """
        return self._open(_HEADER_BYTES)[0]

    def rows(self, columns: Mapping[str, Kind]) -> Iterator[Rows]:
        """Yields the rows, all columns String; see `Table.rows`."""
        names, blocks = self._open()
        reader = _Reader(self._layout(names, columns if names else {}), self.is_exact)
        line, num_rows, is_truncated = 1, 0, False
        for block in blocks:
            line, is_truncated = block.first_line + block.num_lines, block.truncated
            for rows in reader.rows(block):
                num_rows += len(rows.line) + len(rows.problems)
                yield rows
        for rows in reader.last_rows():
            num_rows += len(rows.line) + len(rows.problems)
            yield rows
        if is_truncated:
            yield no_rows(columns, truncated(self.name, line - 1))
        elif not num_rows:
            yield no_rows(columns, without_rows(self.name, has_header=bool(names) and line > 1))

    def _open(self, block_bytes: int | None = None) -> tuple[list[str], Iterator[TextBlock]]:
        """The header's names, [] where there is none, and what follows it."""
        blocks = text_blocks(self.path, self.encoding, block_bytes)
        if self.header:
            return list(self.header), blocks
        last = []
        for block in blocks:
            names, used = self._header(block)
            if names:
                taken = block.data.count(b"\n", 0, used)
                rest = TextBlock(
                    block.data[used:],
                    block.first_line + taken,
                    block.num_lines - taken,
                    block.truncated,
                )
                return names, itertools.chain([rest], blocks)
            last = [TextBlock(b"", block.first_line + block.num_lines, 0, block.truncated)]
        return [], iter(last)

    def _layout(self, names: list[str], columns: Mapping[str, Kind]) -> CsvLayout:
        places = {name: names.index(name) for name in columns}
        return CsvLayout(
            name=self.name,
            delimiter=self.delimiter,
            quote=self.quote,
            num_fields=len(names),
            columns=dict(sorted(places.items(), key=lambda entry: entry[1])),
            single_line=tuple(
                name for name, kind in columns.items() if kind in ("id", "time", "event", "number")
            ),
        )

    def _header(self, block: TextBlock) -> tuple[list[str], int]:
        """Names of the columns, and how many bytes they take at the beginning of a block."""
        used, line, text = 0, block.first_line, b""
        while used < len(block.data):
            end = block.data.index(b"\n", used)
            text, used = block.data[used:end], end + 1
            if text.strip():
                break
            line += 1
        else:
            return [], used
        where = f"{self.path}, line {line}"
        try:
            first = text.decode()
        except UnicodeDecodeError as error:
            message = not_utf8_message(self.path, line, error.start + 1, text[error.start])
            raise ValueError(f"{message}; the line must be the header") from error
        for character, what in (("\0", "a NUL"), ("\r", "a carriage return")):
            if character in first:
                raise ValueError(
                    f"{where}: {what} stands in the header: {short(first)}; it must be a line of "
                    "text that ends in a line feed"
                )
        layout = self._layout([], {})
        fields = split_line(first, layout)
        if fields is None:
            raise ValueError(
                f"{where}: the header's quotes do not fit: {short(first)}; each field must be "
                "closed where it was opened"
            )
        if len(fields) > _MAX_FIELDS:
            raise ValueError(
                f"{where}: {len(fields)} columns stand in the header; a file has at most "
                f"{_MAX_FIELDS}; is delimiter={self.delimiter!r} right?"
            )
        return [name.strip() for name in fields], used


class _Reader:
    """Reads blocks fast where it can, and only the neighbourhood of what is odd exactly."""

    def __init__(self, layout: CsvLayout, is_exact: bool) -> None:
        self._layout = layout
        self._exact = ExactCsv(layout)
        self._is_exact = is_exact
        self._rest = b""  # a row that goes on in the next block
        self._line = 1  # where the rest begins

    def rows(self, block: TextBlock) -> Iterator[Rows]:
        """Yields the rows of a block, but for one at its end that may go on."""
        self._line = block.first_line - self._rest.count(b"\n")
        pieces = [block.data]
        while pieces:
            piece = pieces.pop()
            data = self._rest + piece
            rows = None
            may_be_fast = not self._is_exact and len(self._layout.delimiter) == 1
            if may_be_fast and not self._exact.is_needed(self._line):
                rows = fast_rows(data, self._line, self._layout)
            if rows is None:
                half = piece.rfind(b"\n", 0, len(piece) // 2) + 1
                if half and len(piece) > _SMALL and may_be_fast:
                    pieces += [piece[half:], piece[:half]]
                    continue
                rows, used = self._exact.rows(data, self._line, is_last=False)
            else:
                used = len(data)
            self._rest = data[used:]
            self._line += data.count(b"\n", 0, used)
            yield rows

    def last_rows(self) -> Iterator[Rows]:
        """Yields the rows of what was left at the end."""
        if self._rest:
            yield self._exact.rows(self._rest, self._line, is_last=True)[0]
