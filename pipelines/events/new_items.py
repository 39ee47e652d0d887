"""Lists of new items, one a brand (or category) and kind, and which items can be had."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from pipelines.events.keys import Keys, ranks, with_room

AVAILABLE, OUT, GONE = 0, 1, 2
_COLUMNS = {"item": np.int32, "time": np.int64, "brand": np.int32}


class Lists:
    """Rings of the last items to arrive; 16 bytes an entry, made for every list.

    Args:
        num_kinds: lists of one owner.
        length: entries of one list.
        expected: owners that there is room for at the start.
    """

    def __init__(self, num_kinds: int, length: int, expected: int):
        self._num_kinds, self._length = num_kinds, length
        shape = (expected, num_kinds, length)
        self._columns = {name: np.zeros(shape, dtype) for name, dtype in _COLUMNS.items()}
        self._total = np.zeros((expected, num_kinds), np.int64)
        self._num_owners = 0

    @property
    def num_bytes(self) -> int:
        """Bytes that the columns take."""
        return sum(column.nbytes for column in self._columns.values()) + self._total.nbytes

    def append(
        self,
        owners: Int[np.ndarray, " n"],
        kinds: Int[np.ndarray, " n"],
        columns: dict[str, np.ndarray],
    ) -> None:
        """Appends `item` and `brand` (rows; -1 for none) and `time`, in the order of arrival."""
        if not len(owners):
            return
        self._num_owners = max(self._num_owners, int(owners.max()) + 1)
        self._columns = {
            name: with_room(column, self._num_owners) for name, column in self._columns.items()
        }
        self._total = with_room(self._total, self._num_owners)
        order, rank, last = ranks(owners * self._num_kinds + kinds)
        owner, kind = owners[order], kinds[order]
        number = self._total[owner, kind] + rank
        # Where a list is passed round once, a place comes twice: the last value stays.
        for name, values in columns.items():
            self._columns[name][owner, kind, number % self._length] = values[order]
        self._total[owner[last], kind[last]] = number[last] + 1

    def read(self, owners: Int[np.ndarray, " n"], kind: int | None) -> dict[str, np.ndarray]:
        """Returns the entries of owners' lists, in no order.

        Args:
            owners: rows.
            kind: the code of a kind; None: all.
        """
        owners = owners[owners < self._num_owners]
        kinds = slice(None) if kind is None else slice(kind, kind + 1)
        filled = np.arange(self._length) < self._total[owners, kinds, None]
        owner, of_kind, place = filled.nonzero()
        where = (owners[owner], of_kind + (kind or 0), place)
        return {name: column[where] for name, column in self._columns.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that it holds, by name."""
        columns = self._columns | {"total": self._total}
        return {name: column[: self._num_owners] for name, column in columns.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Holds what `state` returned."""
        self._num_owners = len(state["total"])
        for name in _COLUMNS:
            self._columns[name] = with_room(self._columns[name], self._num_owners)
            self._columns[name][: self._num_owners] = state[name]
        self._total = with_room(self._total, self._num_owners)
        self._total[: self._num_owners] = state["total"]


class ItemStates:
    """The latest word on every item that the catalogue's events named.

    Args:
        expected: room at the start.
    """

    def __init__(self, expected: int):
        self._items = Keys(expected)
        self._word = np.zeros(expected, np.uint8)
        self._time = np.zeros(expected, np.int64)

    @property
    def num_bytes(self) -> int:
        """Bytes that the columns take."""
        return self._items.num_bytes + self._word.nbytes + self._time.nbytes

    def apply(
        self,
        items: Int[np.ndarray, " n"],
        word: Int[np.ndarray, " n"],
        time: Int[np.ndarray, " n"],
    ) -> Int[np.ndarray, " n"]:
        """Applies `AVAILABLE`, `OUT` or `GONE` to items; of one time, the last to arrive counts.

        Returns:
            The rows of the items, int64.
        """
        if not len(items):
            return np.zeros(0, np.int64)
        known = len(self._items)
        rows = self._items.add(items)
        self._word = with_room(self._word, len(self._items))
        self._time = with_room(self._time, len(self._items))
        self._time[known : len(self._items)] = np.iinfo(np.int64).min
        order = np.lexsort((np.arange(len(rows)), time, rows))
        final = np.ones(len(order), bool)
        final[:-1] = rows[order][1:] != rows[order][:-1]
        order = order[final]
        order = order[time[order] >= self._time[rows[order]]]
        self._word[rows[order]] = word[order]
        self._time[rows[order]] = time[order]
        return rows

    def can_be_had(self, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Returns which rows' items are neither deleted nor out of stock."""
        return self._word[rows] == AVAILABLE

    def ids(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Returns the ids of rows."""
        return self._items.ids[rows]

    def available(self, items: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Returns which items are neither deleted nor out of stock; unknown ones are not."""
        rows = self._items.find(items)
        return (rows < 0) | (self._word[rows] == AVAILABLE)

    def since(self, after: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Returns ids of items that can be had, and when that was said, if not before `after`."""
        size = len(self._items)
        kept = (self._word[:size] == AVAILABLE) & (self._time[:size] >= after)
        return self._items.ids[kept], self._time[:size][kept]

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that it holds, by name."""
        size = len(self._items)
        return {"items": self._items.ids, "word": self._word[:size], "time": self._time[:size]}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Holds what `state` returned."""
        size = len(state["items"])
        self._items.restore(state["items"])
        self._word, self._time = with_room(self._word, size), with_room(self._time, size)
        self._word[:size], self._time[:size] = state["word"], state["time"]
