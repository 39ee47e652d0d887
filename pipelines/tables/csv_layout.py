"""How a CSV file is written, and what is said of a line that does not fit."""

from __future__ import annotations

import dataclasses

from pipelines.tables.table import Problem


@dataclasses.dataclass(frozen=True)
class CsvLayout:
    """What both ways of reading CSV need to know.

    Attributes:
        name: of the file, for messages.
        delimiter: one or more ASCII characters.
        quote: one ASCII character, or "" where quotes mean nothing.
        num_fields: of a row.
        columns: place in a row of each column that is read, by name, in order of place.
        single_line: those in which a line end is a mistake: a quote was lost, or put in.
    """

    name: str
    delimiter: str
    quote: str
    num_fields: int
    columns: dict[str, int]
    single_line: tuple[str, ...] = ()

    def wrong_count(self, line: int, num_fields: int, text: str) -> Problem:
        """Returns what is said of a row with too few or too many fields."""
        return Problem(
            line,
            "wrong_number_of_fields",
            f"{self.name}, line {line}: {num_fields} fields instead of {self.num_fields} in "
            f"{short(text)}",
        )

    def not_utf8(self, line: int, data: bytes) -> Problem:
        """Returns what is said of a line with bytes that are not UTF-8."""
        try:
            data.decode()
            place, byte = 0, 0
        except UnicodeDecodeError as error:
            place, byte = error.start + 1, data[error.start]
        return Problem(line, "not_utf8", not_utf8_message(self.name, line, place, byte))


def not_utf8_message(name: str, line: int, place: int, byte: int) -> str:
    """Returns what is said of a line whose byte number `place`, from 1, is not UTF-8."""
    return (
        f"{name}, line {line}: byte {place} of the line, 0x{byte:02x}, is not UTF-8; if the file "
        "is written in Latin-1, say, set encoding='latin-1'"
    )


def short(text: str, length: int = 80) -> str:
    """Returns a text as Python writes it, cut where it is long."""
    return repr(text) if len(text) <= length else f"{text[:length]!r}… ({len(text)} characters)"
