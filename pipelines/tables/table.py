"""What every format gives: rows of the columns that were asked for, and what is wrong with others.

`BLOCK_BYTES` and `BLOCK_ROWS` bound the memory; results do not depend on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import polars as pl
from jaxtyping import Int64

from pipelines.tables.bad_rows import BadRows

# What a column is read for decides which types of value may stand in it.
Kind = Literal["id", "time", "event", "number", "text", "list", "plain"]

BLOCK_BYTES = 16 << 20
BLOCK_ROWS = 1_000_000
# Nothing longer than this is taken for a line: a small compressed file may become one of any
# length, and what is read from a line takes up to forty times its bytes. A quote that is open for
# so many characters was never closed.
MAX_LINE_BYTES = 16 << 20
MAX_FIELD_CHARS = 1 << 16


@dataclasses.dataclass(frozen=True)
class Problem:
    """Rows that are left out, or why a file ends early.

    Attributes:
        line: where the first of them is.
        reason: as in `BadRows.add`.
        message: as in `BadRows.add`.
        count: how many rows.
    """

    line: int
    reason: str
    message: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of a table, in the file's order.

    Attributes:
        frame: the columns that were asked for, by their name in the file. Text formats give
            String, with null for what is not there; others the types that the file has.
        line: `[len(frame)]` what a person finds each row by in the file, from 1.
        problems: what could not be read.
        is_plain: no text in the frame holds a space, a control character or anything but ASCII.
    """

    frame: pl.DataFrame
    line: Int64[np.ndarray, " n"]
    problems: list[Problem] = dataclasses.field(default_factory=list)
    is_plain: bool = False


class Table(Protocol):
    """A file of rows; small enough to be pickled."""

    @property
    def path(self) -> str:
        """Where it lies."""
        ...

    @property
    def name(self) -> str:
        """What errors and the manifest call it; does not depend on where it lies."""
        ...

    @property
    def place(self) -> str:
        """What a row is found by: "line" in text, "row" elsewhere."""
        ...

    def columns(self) -> list[str]:
        """Returns the names of its columns, [] for a file without any content.

        Raises:
            ValueError: the file is not of this format.
        """
        ...

    def rows(self, columns: Mapping[str, Kind]) -> Iterator[Rows]:
        """Yields the rows, block by block.

        Args:
            columns: names of columns that are there, and what each is read for.

        Raises:
            ValueError: the file cannot be read on, and what was read so far cannot be trusted.
        """
        ...


def no_rows(columns: Iterable[str], problem: Problem) -> Rows:
    """Returns a problem without rows."""
    frame = pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    return Rows(frame, np.zeros(0, np.int64), [problem])


def truncated(name: str, last_line: int) -> Problem:
    """Returns what is said of a file that ends in the middle of a compressed block."""
    return Problem(
        last_line + 1,
        "truncated_file",
        f"{name}: the compressed file ends in the middle of a block; the last line that is whole "
        f"is {last_line}; get the file anew",
    )


def line_too_long(path: str, line: int) -> ValueError:
    """Returns the error for a line of more than `MAX_LINE_BYTES`."""
    return ValueError(
        f"{path}, line {line}: longer than {MAX_LINE_BYTES >> 20} MiB; lines must end in a line "
        "feed"
    )


def without_rows(name: str, *, has_header: bool) -> Problem:
    """Returns what is said of a file in which no row stands, right or wrong."""
    if has_header:
        return Problem(1, "no_rows", f"{name}: the file has a header and no rows")
    return Problem(1, "empty_file", f"{name}: the file is empty")


def flush(problems: Iterable[Problem], bad_rows: BadRows) -> None:
    """Tells `bad_rows` of problems, in the order of their lines.

    Raises:
        ValueError: bad rows are errors.
    """
    for problem in sorted(problems, key=lambda problem: problem.line):
        bad_rows.add(problem.reason, problem.message, problem.count)


def listed(names: Sequence[str], most: int = 40) -> str:
    """Returns names for a message, of many the first."""
    text = ", ".join(f"{name!r:.80}" for name in names[:most]) or "none"
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def check_columns(table: Table, wanted: Iterable[str], what: str) -> None:
    """Checks that a table has columns, each once; a file without any content passes.

    Args:
        table: the table.
        wanted: their names.
        what: the config's field that each name comes from, for the message, as "the columns …".

    Raises:
        ValueError: a column is missing or there twice; the message lists those there are.
    """
    there = table.columns()
    for name in wanted if there else ():
        if name not in there:
            raise ValueError(
                f"{table.path}: there is no column {name!r}, which {what} needs; it has "
                f"{listed(there)}; set the source's column fields"
            )
        if there.count(name) > 1:
            raise ValueError(
                f"{table.path}: {there.count(name)} columns are called {name!r}; the name of a "
                "column that is read must be unique"
            )
