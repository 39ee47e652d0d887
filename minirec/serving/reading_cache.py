"""What histories were read into, by content: the least recently used is dropped first."""

from __future__ import annotations

import collections
import threading
from collections.abc import Hashable

import numpy as np

Row = tuple[np.ndarray, ...]


class ReadingCache:
    """Readings bounded in bytes; safe among threads.

    Attributes:
        hits: prompts that had been read when they were asked for.
        grown: those whose beginning had been read.
        misses: those of which nothing had.
    """

    def __init__(self, max_bytes: int):
        """Begins empty.

        Args:
            max_bytes: of the arrays that are kept; 0 keeps none.
        """
        self.hits = self.grown = self.misses = 0
        self._max_bytes, self._bytes = max_bytes, 0
        self._rows: collections.OrderedDict[Hashable, Row] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._max_bytes > 0

    @property
    def num_bytes(self) -> int:
        """Bytes that are held."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: Hashable) -> Row | None:
        """Returns the reading of a key, or None."""
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
            return row

    def count(self, *, whole: bool, begun: bool = False) -> None:
        """Takes note of a prompt that was asked for: whether all or the beginning was there."""
        with self._lock:
            self.hits += whole
            self.grown += begun and not whole
            self.misses += not (whole or begun)

    def put(self, key: Hashable, row: Row) -> None:
        """Keeps a reading, if it is not larger than all that may be kept."""
        size = sum(array.nbytes for array in row)
        if size > self._max_bytes:
            return
        with self._lock:
            if key in self._rows:
                return
            self._rows[key] = row
            self._bytes += size
            while self._bytes > self._max_bytes:
                _, old = self._rows.popitem(last=False)
                self._bytes -= sum(array.nbytes for array in old)

    def clear(self) -> None:
        """Forgets all."""
        with self._lock:
            self._rows.clear()
            self._bytes = 0
