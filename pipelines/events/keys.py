"""Numbers for ids as they come: a hash table in NumPy columns, looked up a batch at a time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

_FACTOR = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: Fibonacci hashing.
_MASK = (1 << 64) - 1


class Keys:
    """Ids of 64 bits and their rows `0, 1, …` in the order in which they came.

    Open addressing with linear probing, at most half full. It holds 16 to 24 bytes an id, and no
    Python object.

    Attributes:
        grows: whether room for twice as many is made when it is full.
    """

    def __init__(self, room: int, *, grows: bool = True):
        self.grows = grows
        self._size = 0
        self._ids = np.zeros(room, np.int64)
        self._make_slots()

    def __len__(self) -> int:
        return self._size

    @property
    def room(self) -> int:
        """How many ids there is room for."""
        return len(self._ids)

    @property
    def ids(self) -> Int[np.ndarray, " n"]:
        """The ids by row, int64."""
        return self._ids[: self._size]

    @property
    def num_bytes(self) -> int:
        """Bytes that the columns take."""
        return self._ids.nbytes + self._slots.nbytes

    def find(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Returns the row of every id, int64; -1 where it is not here."""
        place = self._place(ids)
        found = self._slots[place].astype(np.int64)
        left = np.flatnonzero((found >= 0) & (self._ids[found] != ids))
        while len(left):
            place[left] = (place[left] + 1) & self._wrap
            row = self._slots[place[left]]
            found[left] = row
            left = left[(row >= 0) & (self._ids[row] != ids[left])]
        return found

    def find_one(self, id_: int) -> int:
        """Returns the row of an id, or -1."""
        place = _mixed(id_) >> self._shift
        slots, ids = self._slots_view, self._ids_view
        while (row := slots[place]) >= 0 and ids[row] != id_:
            place = (place + 1) & self._wrap
        return row

    def add(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Returns the row of every id, int64; those that are new get the next ones.

        Raises:
            ValueError: there is no room, and the table does not grow.
        """
        rows = self.find(ids)
        missing = np.flatnonzero(rows < 0)
        if not len(missing):
            return rows
        new = ids[missing]
        order, rank, _ = ranks(new)
        first = np.sort(order[rank == 0])  # Of each id the first, in the order of their coming.
        self.append(new[first])
        rows[missing] = self.find(new)
        return rows

    def clear(self) -> None:
        """Forgets all ids."""
        self._size = 0
        self._slots[:] = -1

    def restore(self, ids: Int[np.ndarray, " n"]) -> None:
        """Holds these ids, all different, by row, and nothing else."""
        self.clear()
        self.append(ids)

    def append(self, ids: Int[np.ndarray, " n"]) -> None:
        """Gives ids that are all different, and none of them here, the next rows.

        Raises:
            ValueError: there is no room, and the table does not grow.
        """
        if self._size + len(ids) > self.room:
            if not self.grows:
                raise ValueError(f"{len(ids)} ids: there is room for {self.room - self._size}")
            room = max(2 * self.room, self._size + len(ids))
            old = self.ids
            self._ids = np.zeros(room, np.int64)
            self._ids[: len(old)] = old
            self._make_slots()
            self._fill(np.arange(self._size))
        rows = np.arange(self._size, self._size + len(ids))
        self._ids[rows] = ids
        self._size += len(ids)
        self._fill(rows)

    def _fill(self, rows: np.ndarray) -> None:
        place = self._place(self._ids[rows])
        while len(rows):
            free = self._slots[place] < 0
            # Of those that want the same place the last one gets it, and the others go on.
            self._slots[place[free]] = rows[free]
            left = self._slots[place] != rows
            rows, place = rows[left], (place[left] + 1) & self._wrap

    def _make_slots(self) -> None:
        bits = max(1, (2 * len(self._ids) - 1).bit_length())
        self._shift, self._wrap = 64 - bits, (1 << bits) - 1
        self._slots = np.full(1 << bits, -1, np.int32)
        # Plain views give Python's numbers at a third of the cost of an array's.
        self._slots_view, self._ids_view = memoryview(self._slots), memoryview(self._ids)

    def _place(self, ids: np.ndarray) -> np.ndarray:
        mixed = ids.astype(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(_FACTOR)
        return (mixed >> np.uint64(self._shift)).astype(np.int64)


def _mixed(id_: int) -> int:
    id_ &= _MASK
    return ((id_ ^ (id_ >> 32)) * _FACTOR) & _MASK


def with_room(column: np.ndarray, rows: int, fill: int = 0) -> np.ndarray:
    """Returns a column with room for `rows` rows: itself, or a copy that is twice as long."""
    if rows <= len(column):
        return column
    longer = np.full((max(rows, 2 * len(column)), *column.shape[1:]), fill, column.dtype)
    longer[: len(column)] = column
    return longer


def ranks(groups: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns an order that brings equal groups together, and of each place its rank and `last`.

    Args:
        groups: the group of every event, in the order in which they came.

    Returns:
        order: indices; within a group in the order in which they came.
        rank: of each place of that order, how many of its group stand before it.
        last: of each place of that order, whether it is its group's last.
    """
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    first = np.ones(len(groups), bool)
    first[1:] = sorted_groups[1:] != sorted_groups[:-1]
    place = np.arange(len(groups))
    rank = place - np.maximum.accumulate(np.where(first, place, 0))
    last = np.ones(len(groups), bool)
    last[:-1] = first[1:]
    return order, rank, last
