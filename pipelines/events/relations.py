"""Which brands a user follows and which they block: the latest word on each pair counts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from pipelines.events.keys import Keys, ranks, with_room

FOLLOWS, BLOCKS = 0, 1


class Relations:
    """Pairs of a user and a brand; of each, since when the one follows and blocks the other.

    Args:
        max_relations: brands that one user may follow or block, ever.
        expected_users: room at the start.
    """

    def __init__(self, max_relations: int, expected_users: int):
        self._max = max_relations
        self._pairs = Keys(1 << 10)  # user's row << 32 | brand's row
        self._on = np.zeros((1 << 10, 2), bool)
        self._time = np.zeros((1 << 10, 2), np.int64)
        self._before = np.zeros(1 << 10, np.int32)  # The same user's pair before it and 1; 0: none.
        self._last = np.zeros(expected_users, np.int32)  # The user's last pair and 1.
        self._count = np.zeros(expected_users, np.int32)
        self._num_users = 0

    @property
    def num_bytes(self) -> int:
        """Bytes that the columns take."""
        columns = (self._on, self._time, self._before, self._last, self._count)
        return self._pairs.num_bytes + sum(column.nbytes for column in columns)

    def apply(
        self,
        users: Int[np.ndarray, " n"],
        brands: Int[np.ndarray, " n"],
        what: Int[np.ndarray, " n"],
        on: Bool[np.ndarray, " n"],
        time: Int[np.ndarray, " n"],
    ) -> Bool[np.ndarray, " n"]:
        """Applies events in the order of their arrival; of one time, the last to arrive counts.

        Args:
            users: rows of users.
            brands: rows of brands.
            what: `FOLLOWS` or `BLOCKS`.
            on: whether it begins or ends.
            time: when, in milliseconds since 1970.

        Returns:
            Which were applied; the user of another has `max_relations` brands already.
        """
        if not len(users):
            return np.zeros(0, bool)
        pairs = self._rows(users, brands)
        kept = pairs >= 0
        key = (pairs * 2 + what)[kept]
        order = np.lexsort((np.arange(len(key)), time[kept], key))
        final = np.ones(len(order), bool)
        final[:-1] = key[order][1:] != key[order][:-1]
        order = order[final]
        row, column = key[order] // 2, key[order] % 2
        since = time[kept][order]
        newer = since >= self._time[row, column]
        row, column = row[newer], column[newer]
        self._time[row, column] = since[newer]
        self._on[row, column] = on[kept][order][newer]
        return kept

    def read(self, user: int, what: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows of the brands that a user follows or blocks, and since when, both int64.

        Args:
            user: the row; -1 for one who is not known.
            what: `FOLLOWS` or `BLOCKS`.
        """
        rows = self._walk(user)
        rows = rows[self._on[rows, what]]
        return self._pairs.ids[rows] & 0xFFFFFFFF, self._time[rows, what]

    def _rows(self, users: np.ndarray, brands: np.ndarray) -> np.ndarray:
        """Returns rows of pairs, of new ones too; -1 where there is no room for its user."""
        self._num_users = max(self._num_users, int(users.max()) + 1)
        self._last = with_room(self._last, self._num_users)
        self._count = with_room(self._count, self._num_users)
        ids = users << 32 | brands
        rows = self._pairs.find(ids)
        _, first = np.unique(ids, return_index=True)
        first = np.sort(first[rows[first] < 0])  # New pairs, in the order of their arrival.
        order, rank, _ = ranks(users[first])
        user = users[first][order]
        fits = np.empty(len(first), bool)
        fits[order] = self._count[user] + rank < self._max
        first = first[fits]
        if not len(first):
            return rows
        known = len(self._pairs)
        self._pairs.append(ids[first])
        self._link(users[first], known + np.arange(len(first)))
        return self._pairs.find(ids)

    def _link(self, users: np.ndarray, rows: np.ndarray) -> None:
        """Puts new pairs before the others of their users."""
        size = len(self._pairs)
        self._on = with_room(self._on, size)
        self._time = with_room(self._time, size)
        self._before = with_room(self._before, size)
        self._time[rows] = np.iinfo(np.int64).min
        order, rank, last = ranks(users)
        user, mine = users[order], rows[order]
        before = np.empty(len(rows), np.int64)
        before[1:] = mine[:-1] + 1
        first = rank == 0
        before[first] = self._last[user[first]]
        self._before[mine] = before
        self._last[user[last]] = mine[last] + 1
        np.add.at(self._count, users, 1)

    def _walk(self, user: int) -> np.ndarray:
        row = int(self._last[user]) if 0 <= user < self._num_users else 0
        rows = []
        while row:
            rows.append(row - 1)
            row = int(self._before[row - 1])
        return np.array(rows, np.int64)

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that it holds, by name."""
        size = len(self._pairs)
        users = {"last": self._last[: self._num_users], "count": self._count[: self._num_users]}
        pairs = {"on": self._on, "time": self._time, "before": self._before}
        return users | {name: col[:size] for name, col in pairs.items()} | {"ids": self._pairs.ids}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Holds what `state` returned."""
        self._pairs.restore(state["ids"])
        size, self._num_users = len(state["ids"]), len(state["last"])
        for name in ("on", "time", "before"):
            column = with_room(getattr(self, f"_{name}"), size)
            column[:size] = state[name]
            setattr(self, f"_{name}", column)
        for name in ("last", "count"):
            column = with_room(getattr(self, f"_{name}"), self._num_users)
            column[: self._num_users] = state[name]
            setattr(self, f"_{name}", column)
