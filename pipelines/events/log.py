"""The log that feeds a store by default: batches of events in SQLite, only ever appended."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minirec.files import DamagedError
from pipelines.events.batch import EVENT, require_batch

_TABLES = """
CREATE TABLE IF NOT EXISTS batches (
    first INTEGER PRIMARY KEY, size INTEGER NOT NULL, crc INTEGER NOT NULL, events BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS log (one INTEGER PRIMARY KEY CHECK (one = 1), next INTEGER NOT NULL);
INSERT OR IGNORE INTO log VALUES (1, 0);
"""


class EventLog:
    """Events by offset, `0, 1, …`, in batches as they were appended.

    A batch that `append` returned from is on the disk, whole, whatever kills the program then.
    Several programs may read while one appends. An instance belongs to the thread that made it.

    Args:
        path: the SQLite file; it is made where it is missing.

    Raises:
        OSError: it cannot be opened, or is no such log.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._rows = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            self._rows.execute("PRAGMA journal_mode=WAL")
            self._rows.execute("PRAGMA synchronous=FULL")  # A power cut costs no batch either.
            self._rows.executescript(_TABLES)
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: no event log can be opened here: {error}") from error

    @property
    def next_offset(self) -> int:
        """The offset that the next event gets."""
        return self._rows.execute("SELECT next FROM log").fetchone()[0]

    @property
    def first_offset(self) -> int:
        """The offset of the oldest event that is still here."""
        first = self._rows.execute("SELECT min(first) FROM batches").fetchone()[0]
        return self.next_offset if first is None else first

    def append(self, batch: np.ndarray) -> int:
        """Appends a batch, whole or not at all, and returns the offset after it.

        Raises:
            ValueError: it is no batch.
            OSError: the disk is full or refuses to be written.
        """
        require_batch(batch)
        data = np.ascontiguousarray(batch).tobytes()
        try:
            self._rows.execute("BEGIN IMMEDIATE")
            try:
                first = self.next_offset
                if len(batch):
                    row = (first, len(batch), zlib.crc32(data), data)
                    self._rows.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", row)
                    self._rows.execute("UPDATE log SET next = ?", (first + len(batch),))
                self._rows.execute("COMMIT")
            except BaseException:
                if self._rows.in_transaction:
                    self._rows.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: cannot be appended to: {error}") from error
        return first + len(batch)

    def read(self, offset: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields `(offset after it, batch)` from an offset on, as far as the log goes now.

        Raises:
            ValueError: the offset is ahead of the log, or its events were forgotten.
            DamagedError: a batch is not as it was written.
        """
        if not self.first_offset <= offset <= self.next_offset:
            raise ValueError(
                f"offset={offset}: {self.path} holds {self.first_offset} to {self.next_offset}"
            )
        while True:
            row = self._rows.execute(
                "SELECT first, size, crc, events FROM batches WHERE first <= ? "
                "ORDER BY first DESC LIMIT 1",
                (offset,),
            ).fetchone()
            if row is None or offset >= row[0] + row[1]:
                return
            first, size, crc, data = row
            if len(data) != size * EVENT.itemsize or zlib.crc32(data) != crc:
                raise DamagedError(
                    f"{self.path}: the batch at offset {first} is not as it was written; restore "
                    "the file, or begin a new log"
                )
            batch = np.frombuffer(data, EVENT)[offset - first :]
            offset = first + size
            yield offset, batch

    def forget(self, offset: int) -> int:
        """Removes the batches that end at or before an offset, and returns how many.

        Args:
            offset: what the oldest snapshot that shall still be of use holds.
        """
        cursor = self._rows.execute("DELETE FROM batches WHERE first + size <= ?", (offset,))
        return cursor.rowcount

    def close(self) -> None:
        """Closes the file."""
        self._rows.close()
