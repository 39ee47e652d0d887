"""Which event ids have come before, in memory that does not grow."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from pipelines.events.keys import Keys


class Remembered:
    """Two tables of ids: the one that fills, and the full one before it.

    When a new id finds the first full, the second is forgotten and they change places. So an id is
    known again among the `size` new ones after it, and forgotten after at most twice as many.

    Args:
        size: ids of one table.
    """

    def __init__(self, size: int):
        self._current = Keys(size, grows=False)
        self._older = Keys(size, grows=False)

    @property
    def num_bytes(self) -> int:
        """Bytes that the columns take."""
        return self._current.num_bytes + self._older.num_bytes

    def add(self, ids: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Returns which of the ids are new, in their order, and remembers these."""
        fresh = np.zeros(len(ids), bool)
        start = 0
        while start < len(ids):
            rest = ids[start:]
            new = self._current.find(rest) < 0
            if len(self._older):
                new &= self._older.find(rest) < 0
            new &= _first_of_each(rest)
            places = np.flatnonzero(new)
            room = self._current.room - len(self._current)
            taken = places[:room]
            self._current.append(rest[taken])
            fresh[start + taken] = True
            if len(places) <= room:
                break
            # The next new id finds the table full; an id after it may have been forgotten by then.
            start += int(places[room])
            self._older, self._current = self._current, self._older
            self._current.clear()
        return fresh

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that it holds, by name."""
        return {"current": self._current.ids, "older": self._older.ids}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Holds what `state` returned."""
        self._current.restore(state["current"])
        self._older.restore(state["older"])


def _first_of_each(ids: np.ndarray) -> np.ndarray:
    order = np.argsort(ids, kind="stable")
    first = np.ones(len(ids), bool)
    sorted_ids = ids[order]
    first[order[1:]] = sorted_ids[1:] != sorted_ids[:-1]
    return first
