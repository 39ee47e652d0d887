"""Who waits for a tile: by what can share one, the oldest first."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable

from minirec.serving.catalogue import Stock
from minirec.serving.query import Query
from minirec.serving.recommender import Served
from minirec.serving.request import Pending, Request


@dataclasses.dataclass(eq=False)
class Waiting:
    """A request that has been taken on.

    Attributes:
        request: what was asked.
        query: that, in the catalogue's item ids.
        num: items to recommend.
        unknown: ids that the catalogue lacks.
        served: the version that answers it.
        stock: of that version.
        key: requests of one key can share a tile.
        expires: when it is too late for an answer, by the engine's clock.
        pending: what will hold the answer.
    """

    request: Request
    query: Query
    num: int
    unknown: tuple[str, ...]
    served: Served
    stock: Stock
    key: Hashable
    expires: float
    pending: Pending


class Queue:
    """Requests by key; not safe among threads.

    Attributes:
        num_tiles: tiles that all of them need.
    """

    def __init__(self, tile: int):
        """Begins empty.

        Args:
            tile: requests that share one at most.
        """
        self.num_tiles = 0
        self._tile, self._size = tile, 0
        self._by_key: dict[Hashable, collections.deque[Waiting]] = {}

    def __len__(self) -> int:
        return self._size

    def count(self, key: Hashable) -> int:
        """Returns how many of a key wait."""
        return len(self._by_key.get(key, ()))

    def ahead(self, key: Hashable) -> int:
        """Returns how many tiles begin before that of a request that came now."""
        own = self.count(key)
        return self.num_tiles - self._tiles(own) + own // self._tile

    def push(self, waiting: Waiting) -> None:
        """Lets a request wait."""
        line = self._by_key.setdefault(waiting.key, collections.deque())
        self.num_tiles += len(line) % self._tile == 0
        line.append(waiting)
        self._size += 1

    def first(self) -> Waiting:
        """Returns the request that has waited longest, and leaves it there."""
        return min((line[0] for line in self._by_key.values()), key=lambda one: one.pending.came)

    def pop(self, key: Hashable) -> Waiting | None:
        """Takes the oldest of a key out, or returns None where none waits."""
        line = self._by_key.get(key)
        if line is None:
            return None
        waiting = line.popleft()
        self._size -= 1
        self.num_tiles -= len(line) % self._tile == 0
        if not line:
            del self._by_key[key]
        return waiting

    def clear(self) -> list[Waiting]:
        """Takes all out."""
        left = [waiting for line in self._by_key.values() for waiting in line]
        self._by_key.clear()
        self._size = self.num_tiles = 0
        return left

    def _tiles(self, number: int) -> int:
        return -(-number // self._tile)
