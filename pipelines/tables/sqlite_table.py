"""A table, view or query of an SQLite file, which is only ever read."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.tables import table as sizes
from pipelines.tables.ahead import is_unwanted
from pipelines.tables.csv_layout import short
from pipelines.tables.objects import WrongTypeError, text_of
from pipelines.tables.table import Kind, Problem, Rows, listed, no_rows, without_rows

_WAL_VERSION = 2
_ROWS = 200_000  # that stand in memory as Python values
_STEPS = 100_000  # of SQLite's machine, some milliseconds

# What a statement may do. A virtual table such as json_each declares its columns by a change to
# the schema that is never made: the file is opened for reading, and only a PRAGMA could allow more.
_READS = (
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
)
_DECLARES = (sqlite3.SQLITE_UPDATE, "sqlite_master")
_HARMLESS_PRAGMA = (sqlite3.SQLITE_PRAGMA, "data_version", None)  # full-text tables ask for it
_FUNCTIONS_THAT_DO_MORE = ("load_extension", "fts3_tokenizer")


@dataclasses.dataclass(frozen=True)
class SqliteTable:
    """A table or a query of an SQLite file; exactly one of the two is named.

    Attributes:
        path: where the file lies.
        name: what errors call it.
        table: a table or view, read in the order in which its rows were added.
        query: a SELECT, read in the order it gives.
        field: what errors call the query.
    """

    path: str
    name: str
    table: str = ""
    query: str = ""
    field: str = "source.query"

    place = "row"

    def __post_init__(self):
        if bool(self.table) == bool(self.query):
            raise ValueError(
                f"{self.path}: table is {self.table!r} and query {self.query!r}; name one of them"
            )

    def columns(self) -> list[str]:
        """Returns the names of its columns.

        Raises:
            ValueError: the file is no SQLite file or is cut off, or there is no such table.
        """
        with self._cursor(is_head=True) as cursor:
            return [column[0] for column in cursor.description]

    def rows(self, columns: Mapping[str, Kind]) -> Iterator[Rows]:
        """Yields the rows, a column Int64 or String from block to block; see `Table.rows`."""
        start, is_text = 0, True
        while True:
            try:
                for rows, size in self._blocks(columns, start, is_text=is_text):
                    yield rows
                    start += size
                break
            except sqlite3.OperationalError as error:
                if not is_text or "decode" not in str(error).lower():
                    raise self._error(error, start) from error
                is_text = False  # once more from here on, value by value
            except sqlite3.Error as error:
                raise self._error(error, start) from error
        if not start:
            yield no_rows(columns, without_rows(self.name, has_header=True))

    def _blocks(
        self, columns: Mapping[str, Kind], start: int, *, is_text: bool
    ) -> Iterator[tuple[Rows, int]]:
        """The rows from `start` on, and how many there were, those with mistakes included."""
        with self._cursor(columns, is_text=is_text) as cursor:
            names = [column[0] for column in cursor.description]
            places = {name: names.index(name) for name in columns}
            for at in range(0, start, _ROWS):
                cursor.fetchmany(min(_ROWS, start - at))
            while block := cursor.fetchmany(min(_ROWS, sizes.BLOCK_ROWS)):
                fields = list(zip(*block, strict=True))
                values = {name: fields[place] for name, place in places.items()}
                yield self._rows(values, columns, start + 1, is_text=is_text), len(block)
                start += len(block)

    def _rows(
        self,
        values: Mapping[str, tuple[Any, ...]],
        columns: Mapping[str, Kind],
        first_row: int,
        *,
        is_text: bool,
    ) -> Rows:
        series: dict[str, pl.Series] = {}
        problems: dict[int, Problem] = {}
        num_rows = 0
        for name, kind in columns.items():
            column = values[name]
            num_rows = len(column)
            kinds = set(map(type, column))
            if is_text and kinds == {str}:
                series[name] = pl.Series(name, column, pl.String)
            elif kinds == {int}:
                series[name] = pl.Series(name, column, pl.Int64)
            else:
                texts: list[Any] = [None] * num_rows
                for place, value in enumerate(column):
                    try:
                        texts[place] = text_of(value, "text" if kind == "list" else kind)
                    except WrongTypeError as error:
                        row = first_row + place
                        message = (
                            f"{self.name}, row {row}: {name!r} is {value!a:.80}; it must be {error}"
                        )
                        problems.setdefault(row, Problem(row, error.reason, message))
                series[name] = pl.Series(name, texts, pl.String)
        frame = pl.DataFrame(list(series.values()))
        line = np.arange(first_row, first_row + num_rows)
        if problems:
            is_right = ~np.isin(line, list(problems))
            frame, line = frame.filter(pl.Series(is_right)), line[is_right]
        return Rows(frame, line, list(problems.values()))

    @contextlib.contextmanager
    def _cursor(
        self, columns: Iterable[str] = (), *, is_text: bool = True, is_head: bool = False
    ) -> Generator[sqlite3.Cursor]:
        if not Path(self.path).is_file():
            raise ValueError(f"{self.path}: no such file")
        refused: list[int] = []

        def may(action: int, first: str | None, second: str | None, *_: str | None) -> int:
            is_function = action == sqlite3.SQLITE_FUNCTION
            if (
                (action in _READS and not (is_function and second in _FUNCTIONS_THAT_DO_MORE))
                or (action, first) == _DECLARES
                or (action, first, second) == _HARMLESS_PRAGMA
            ):
                return sqlite3.SQLITE_OK
            refused.append(action)
            return sqlite3.SQLITE_DENY

        stack = contextlib.ExitStack()
        with stack:
            try:
                connection = sqlite3.connect(stack.enter_context(_read_only(self.path)), uri=True)
                stack.callback(connection.close)
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, sizes.MAX_LINE_BYTES)
                connection.set_authorizer(may)
                # SQLite works for any time without a line of Python, in which alone signals count.
                connection.set_progress_handler(is_unwanted, _STEPS)
                if not is_text:
                    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
                statement = self.query or self._select(connection, columns, is_head=is_head)
                cursor = connection.execute(statement)
            # UnicodeDecodeError: names of columns. ProgrammingError: a NUL, several statements.
            except (sqlite3.Error, UnicodeError, ValueError) as error:
                if refused:
                    raise ValueError(
                        f"{self.path}: {self._what()} asks for more than to read; it may be one "
                        "SELECT over this file's tables, without ATTACH, VACUUM, PRAGMA, "
                        "load_extension or a change"
                    ) from error
                if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
                    raise
                raise self._error(error, 0) from error
            if cursor.description is None:
                raise ValueError(f"{self.path}: {self._what()} gives no rows; use a SELECT")
            yield cursor

    def _what(self) -> str:
        if self.query:
            return f"{self.field} {short(self.query)}"
        return f"table {self.table!r}"

    def _select(
        self, connection: sqlite3.Connection, columns: Iterable[str], *, is_head: bool
    ) -> str:
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
        )
        names = [name for (name,) in found]
        if self.table.lower() not in [name.lower() for name in names]:
            raise ValueError(
                f"{self.path}: there is no table {self.table!r}; it has {listed(names)}"
            )
        table = _quoted(self.table)
        if is_head:  # no row of it: one may hold what is never read
            return f"SELECT * FROM {table} LIMIT 0"
        what = ", ".join(map(_quoted, columns)) or "*"
        try:
            # Without this, an index that holds all columns would set the order.
            connection.execute(f"SELECT _rowid_ FROM {table} LIMIT 0")
        except sqlite3.Error:
            return f"SELECT {what} FROM {table}"  # a view, or a table without row numbers
        return f"SELECT {what} FROM {table} ORDER BY _rowid_"

    def _error(self, error: Exception, num_read: int) -> BaseException:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return KeyboardInterrupt()  # Raised in the progress handler, or nobody reads on.
        text = str(error)
        if isinstance(error, sqlite3.DataError) and "too big" in text:
            return ValueError(
                f"{self.path}, row {num_read + 1} or one soon after it: {self._what()} has a value "
                f"of more than {sizes.MAX_LINE_BYTES >> 20} MiB"
            )
        if isinstance(
            error, sqlite3.OperationalError | sqlite3.ProgrammingError | UnicodeEncodeError
        ):
            return ValueError(f"{self.path}: {self._what()}: {text}")
        return ValueError(
            f"{self.path}: not a whole SQLite file ({text}, {num_read} rows read); was it cut off? "
            "Nothing says which of its rows are right: get it anew"
        )


def wal_file(path: str) -> Path | None:
    """Returns the file beside an SQLite file that holds its latest changes, if there is one."""
    wal = Path(f"{path}-wal")
    return wal if wal.is_file() and wal.stat().st_size else None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextlib.contextmanager
def _read_only(path: str) -> Generator[str]:
    """Gives the URI by which SQLite reads a file and writes none, not even beside it."""
    if wal_file(path) is None:
        with Path(path).open("rb") as file:
            head = file.read(20)
        # The changes have all been written back: opened as usual, SQLite would begin a new file.
        is_left = len(head) == 20 and _WAL_VERSION in head[18:20]
        yield _uri(path) + ("&immutable=1" if is_left else "")
    elif Path(f"{path}-shm").is_file():
        yield _uri(path) + "&readonly_shm=1"
    else:
        # SQLite needs an index of the changes and would write it beside the file.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / Path(path).name
            shutil.copyfile(path, copy)
            shutil.copyfile(f"{path}-wal", f"{copy}-wal")
            yield _uri(str(copy))


def _uri(path: str) -> str:
    return "file:" + urllib.parse.quote(str(Path(path).absolute())) + "?mode=ro"
