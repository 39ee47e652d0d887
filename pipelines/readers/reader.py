"""What every reader of a file with columns does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import polars as pl

from pipelines.bad_rows import BadRows


class Reader(Protocol):
    """Reads files of one format. A reader is a small value that can be pickled."""

    def frames(
        self, path: Path, columns: Sequence[str], bad_rows: BadRows
    ) -> Iterator[pl.DataFrame]:
        """Yields the rows of a file in order, in frames of bounded size.

        A frame has the asked columns, of whatever type the file gives them, null where a row has
        nothing there, and `line` Int64 from 1.

        Args:
            path: the file.
            columns: names of columns, each once.
            bad_rows: is told of rows that cannot be read.

        Raises:
            ValueError: a missing column, an empty or damaged file, a row that does not parse.
        """
        ...


def check_columns(path: Path, columns: Sequence[str], there: Sequence[str]) -> None:
    """Raises ValueError if the file lacks a column, or has it twice."""
    for column in columns:
        if there.count(column) != 1:
            wrong = "there is no column" if column not in there else "there are several columns"
            raise ValueError(
                f"{path}: {wrong} {column!r}; its columns: {', '.join(map(repr, there))}"
            )


def shown(value: object) -> str:
    """Returns a value as a message shows it, not longer than a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(str(value))} characters)"
