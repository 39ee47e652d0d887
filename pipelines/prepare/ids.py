"""Numbers for raw ids: every distinct id of a log gets a code, chunk by chunk."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

# Whole numbers are looked up in a table while their range fits into so many entries (1 GiB).
_LARGEST_TABLE = 1 << 28
_MAX_IDS = 1 << 31


class IdCodes:
    """Codes of ids, 0, 1, 2, …: an id keeps the code it was given first.

    An id that a file holds as an integer is the same as its decimal text. Text goes through one
    dictionary (a Polars `Categories`); integers of a narrow range pass a table before it, which
    takes a tenth of the time.
    """

    def __init__(self) -> None:
        self._dtype = pl.Categorical(pl.Categories.random("minirec", pl.UInt32))
        # Polars forgets a dictionary that no series holds.
        self._holder = pl.Series(dtype=self._dtype)
        self._size = 0
        self._first = 0  # the integer that the table's first entry stands for
        self._table = np.zeros(0, np.int32)

    def __len__(self) -> int:
        """Number of distinct ids so far."""
        return self._size

    def encode(self, ids: pl.Series) -> Int32[np.ndarray, " n"]:
        """Returns the code of each id; new ones get new codes.

        Args:
            ids: String or an integer type, without nulls.

        Raises:
            ValueError: more than 2^31 distinct ids.
        """
        if not ids.dtype.is_integer():
            return self._encode_text(ids)
        values = ids.cast(pl.Int64).to_numpy()
        if not self._covers(values):
            return self._encode_text(ids.cast(pl.String))
        place = values - self._first
        codes = self._table[place]
        new = codes < 0
        if new.any():
            missing = pl.Series(values[new]).unique().sort()
            self._table[missing.to_numpy() - self._first] = self._encode_text(
                missing.cast(pl.String)
            )
            codes[new] = self._table[place[new]]
        return codes

    def names(self) -> pl.Series:
        """Returns the ids, String, in the order of their codes."""
        codes = pl.Series(np.arange(self._size, dtype=np.uint32))
        return codes.cat.to(self._dtype).cast(pl.String)

    def _encode_text(self, ids: pl.Series) -> Int32[np.ndarray, " n"]:
        codes = ids.cast(self._dtype).to_physical().to_numpy()
        self._size = max(self._size, int(codes.max(initial=0)) + 1 if len(codes) else 0)
        if self._size > _MAX_IDS:
            raise ValueError(f"{self._size} distinct ids; there may be at most {_MAX_IDS}")
        return codes.astype(np.int32)

    def _covers(self, values: Int64[np.ndarray, " n"]) -> bool:
        """Makes the table cover `values` if their range, with what it covers, is narrow enough."""
        if not len(values):
            return True
        low, high = int(values.min()), int(values.max()) + 1
        if len(self._table):
            low, high = min(low, self._first), max(high, self._first + len(self._table))
        if high - low > _LARGEST_TABLE:
            return False
        if high - low > len(self._table):
            # Twice what is needed, so that a growing range is copied a few times only.
            size = min(_LARGEST_TABLE, max(1024, 2 * (high - low)))
            table = np.full(size, -1, np.int32)
            if len(self._table):
                table[self._first - low : self._first - low + len(self._table)] = self._table
            self._first, self._table = low, table
        return True
