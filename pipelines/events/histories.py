"""What users did with items: one ring of events for all users, each with the way to the one before.

An event's place is its number modulo the ring's length. It keeps how many numbers back its user's
event before it lies, so that a history is a walk from the newest on, and what the ring overwrote
ends it. No room is set aside for users who do little.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from pipelines.events.keys import ranks, with_room

# One event lies in half a line of the processor's cache: what a read waits for most are lines.
_EVENT = np.dtype(
    [
        ("item", np.int64),
        ("time", np.int64),
        ("back", np.uint32),
        ("brand", np.int32),
        ("category", np.int32),
        ("action", np.uint8),
    ],
    align=True,
)
_NAMES = ("item", "time", "back", "brand", "category", "action")


class Histories:
    """The newest events of all users; 32 bytes an event, and 8 a user.

    Args:
        max_events: length of the ring.
        max_per_user: the newest events to arrive of one user that are read.
        expected_users: room at the start.
    """

    def __init__(self, max_events: int, max_per_user: int, expected_users: int):
        self._max_events, self._max_per_user = max_events, max_per_user
        self._ring = np.zeros(max_events, _EVENT)
        self._back = memoryview(self._ring["back"])
        self._next = np.zeros(expected_users, np.int64)  # The newest event's number and 1; 0: none.
        self._num_users = 0
        self.total = 0
        """Events that were ever appended."""

    @property
    def held(self) -> int:
        """Events that the ring holds."""
        return min(self.total, self._max_events)

    @property
    def num_bytes(self) -> int:
        """Bytes that the columns take."""
        return self._ring.nbytes + self._next.nbytes

    def append(
        self, users: Int[np.ndarray, " n"], columns: dict[str, np.ndarray], keep_from: int
    ) -> int:
        """Appends events, at most as many as the ring is long, in the order of their arrival.

        Args:
            users: rows of users, from 0 on.
            columns: `item`, `time`, `brand`, `category` (rows, -1 for none) and `action`.
            keep_from: milliseconds since 1970.

        Returns:
            How many events of that time or later were overwritten.
        """
        size = len(users)
        if not size:
            return 0
        self._num_users = max(self._num_users, int(users.max()) + 1)
        self._next = with_room(self._next, self._num_users)
        number = self.total + np.arange(size)
        slots = number % self._max_events
        overwritten = self._ring["time"][slots[number >= self._max_events]] >= keep_from
        order, rank, last = ranks(users)
        user, mine = users[order], number[order]
        before = np.empty(size, np.int64)
        before[1:] = mine[:-1]
        first = rank == 0
        before[first] = self._next[user[first]] - 1
        back = np.where(before >= 0, mine - before, 0)
        back[back >= self._max_events] = 0  # Overwritten by now.
        self._ring["back"][slots[order]] = back
        for name, values in columns.items():
            self._ring[name][slots] = values
        self._next[user[last]] = mine[last] + 1
        self.total += size
        return int(overwritten.sum())

    def read(self, user: int, after: int, most: int | None = None) -> dict[str, np.ndarray]:
        """Returns a user's events, newest first; of one time, the last to arrive first.

        Args:
            user: the row; -1 for one who is not known.
            after: milliseconds since 1970 that they must not lie before.
            most: how many at most; None: all.
        """
        events = self._ring[self._walk(user)]
        # A walk goes from the last to arrive on: a stable sort leaves those of one time so.
        order = np.argsort(-events["time"], kind="stable")
        order = order[: np.count_nonzero(events["time"] >= after)]
        events = events[order if most is None else order[:most]]
        return {name: events[name] for name in _NAMES if name != "back"}

    def all(self, after: int) -> dict[str, np.ndarray]:
        """Returns `item`, `time` and `action` of all users' events, in no order.

        Args:
            after: milliseconds since 1970 that they must not lie before.
        """
        events = self._ring[: self.held]
        kept = events["time"] >= after
        return {name: events[name][kept] for name in ("item", "time", "action")}

    def _walk(self, user: int) -> np.ndarray:
        number = int(self._next[user]) - 1 if 0 <= user < self._num_users else -1
        oldest, length, back = max(0, self.total - self._max_events), self._max_events, self._back
        slots = []
        while number >= oldest and len(slots) < self._max_per_user:
            slot = number % length
            slots.append(slot)
            step = back[slot]
            if not step:
                break
            number -= step
        return np.array(slots, np.int64)

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that it holds, by name."""
        columns = {name: self._ring[name][: self.held] for name in _NAMES}
        return columns | {"next": self._next[: self._num_users], "total": np.array([self.total])}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Holds what `state` returned."""
        self.total = int(state["total"][0])
        for name in _NAMES:
            self._ring[name][: self.held] = state[name]
        self._num_users = len(state["next"])
        self._next = with_room(self._next, self._num_users)
        self._next[: self._num_users] = state["next"]
