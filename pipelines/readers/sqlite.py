"""Reads a table of an SQLite database."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import polars as pl

from pipelines.bad_rows import BadRows
from pipelines.readers.reader import check_columns, shown
from pipelines.readers.values import column_of, is_plain


@dataclasses.dataclass(frozen=True)
class Sqlite:
    """A table or view of a database, which is opened for reading only.

    Attributes:
        table: its name; empty: the only one there is.
        chunk_rows: rows that are read at one time.
    """

    table: str = ""
    chunk_rows: int = 100_000

    def frames(
        self, path: Path, columns: Sequence[str], bad_rows: BadRows
    ) -> Iterator[pl.DataFrame]:
        """Yields the rows in the order of the table; see `Reader.frames`.

        A row's `line` is its place in that order, from 1.

        Raises:
            ValueError: a missing table or column, a table without rows, or a file that is no
                database or is damaged.
        """
        num_rows = 0
        # A file that is not there would be made.
        address = f"file:{quote(str(path.resolve()))}?mode=ro"
        try:
            with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
                database.text_factory = bytes  # Text that is not UTF-8 is a bad row, not a crash.
                table = self._table(path, database)
                there = database.execute(f"SELECT name FROM pragma_table_info({_text(table)})")
                check_columns(path, columns, [name.decode() for (name,) in there])
                names = ", ".join(_name(column) for column in columns)
                order = " ORDER BY rowid" if self._has_rowid(database, table) else ""
                rows = database.execute(f"SELECT {names} FROM {_name(table)}{order}")
                while some := rows.fetchmany(self.chunk_rows):
                    frame = self._frame(path, columns, some, num_rows + 1, bad_rows)
                    num_rows += len(some)
                    if len(frame):
                        yield frame
        except sqlite3.Error as error:
            message = f"{path}, row {num_rows + 1}: not a whole SQLite database: {error}"
            if not num_rows:
                raise ValueError(message) from error
            bad_rows.add("truncated_file", message)
        if not num_rows:
            raise ValueError(f"{path}: the table holds no rows")

    def _table(self, path: Path, database: sqlite3.Connection) -> str:
        found = database.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') "
            "AND name NOT LIKE 'sqlite^_%' ESCAPE '^' ORDER BY name"
        )
        names = [name.decode() for (name,) in found]
        if self.table in names:
            return self.table
        if self.table or len(names) != 1:
            asked = f"no table {self.table!r}" if self.table else "not exactly one table"
            raise ValueError(f"{path}: there is {asked}; its tables: {', '.join(names) or 'none'}")
        return names[0]

    @staticmethod
    def _has_rowid(database: sqlite3.Connection, table: str) -> bool:
        try:
            database.execute(f"SELECT rowid FROM {_name(table)} LIMIT 0")
        except sqlite3.OperationalError:
            return False
        return True

    @staticmethod
    def _frame(
        path: Path,
        columns: Sequence[str],
        rows: list[tuple],
        first: int,
        bad_rows: BadRows,
    ) -> pl.DataFrame:
        lines, good = [], []
        for number, row in enumerate(rows, start=first):
            try:
                # Text comes as bytes, and so do blobs; those are rarely text.
                row = [cell.decode() if isinstance(cell, bytes) else cell for cell in row]
            except UnicodeDecodeError:
                bad_rows.add("not_in_encoding", f"{path}, row {number}: not UTF-8: {shown(row)}")
                continue
            assert all(map(is_plain, row))
            lines.append(number)
            good.append(row)
        values = list(zip(*good, strict=True)) if good else [()] * len(columns)
        series = [column_of(name, column) for name, column in zip(columns, values, strict=True)]
        return pl.DataFrame([*series, pl.Series("line", lines, dtype=pl.Int64)])


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
