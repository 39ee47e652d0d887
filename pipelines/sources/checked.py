"""Rows from which checks take away what is wrong, one check after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from pipelines.tables import Problem, Rows, Table, flush
from pipelines.tables.bad_rows import BadRows


class Checked:
    """Rows of a table; of each row that is wrong the first mistake counts.

    Attributes:
        frame: the rows that are left.
        line: where each is found.
        is_plain: see `Rows.is_plain`.
    """

    def __init__(self, table: Table, rows: Rows) -> None:
        self.frame = rows.frame
        self.line = rows.line
        self.is_plain = rows.is_plain
        self._problems = list(rows.problems)
        self._where = f"{table.name}, {table.place}"

    def leave_out(
        self, wrong: pl.Series | np.ndarray, reason: str, describe: Callable[[int], str]
    ) -> None:
        """Takes rows away.

        Args:
            wrong: which ones; null counts as wrong.
            reason: as in `BadRows.add`.
            describe: says what is wrong with the row at a place.
        """
        mask = wrong.fill_null(True).to_numpy() if isinstance(wrong, pl.Series) else wrong
        if not mask.any():
            return
        first = int(mask.argmax())
        line = int(self.line[first])
        message = f"{self._where} {line}: {describe(first)}"
        self._problems.append(Problem(line, reason, message, int(mask.sum())))
        self.keep(~mask)

    def keep(self, mask: np.ndarray) -> None:
        """Keeps the rows that `mask` marks; the others are right, but not wanted."""
        self.frame = self.frame.filter(pl.Series(mask))
        self.line = self.line[mask]

    def flush(self, bad_rows: BadRows) -> None:
        """Tells `bad_rows` of all mistakes, in the order of their lines.

        Raises:
            ValueError: bad rows are errors.
        """
        flush(self._problems, bad_rows)
        self._problems = []
