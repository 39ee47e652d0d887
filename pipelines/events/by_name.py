"""A store's answers by its users' names, as columns: what services hand on and clients read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from pipelines.events.messages import key_of
from pipelines.events.store import EventStore

Columns = dict[str, np.ndarray]


class Appended(NamedTuple):
    """What became of messages.

    Attributes:
        accepted: events that are kept now, those that had come before included.
        malformed: messages that are no events, by their places, and what is wrong with each.
    """

    accepted: int
    malformed: dict[int, str]


class UnavailableError(OSError):
    """Events cannot be kept now; the same messages may be sent again, and count once."""


class StoreReads:
    """Reads a store; safe among threads.

    Retention counts from the clock of the machine: a store to which nothing comes forgets, too.

    Args:
        half_life_ms: milliseconds after which an event counts half in what is popular.
        clock: milliseconds since 1970.
    """

    store: EventStore

    def __init__(
        self,
        half_life_ms: float,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):
        self._half_life_ms, self._clock = half_life_ms, clock

    def history(self, user: str, most: int) -> Columns:
        """Returns a user's events, newest first; see `EventStore.history`."""
        return self.store.history(key_of(user), most, now=self._clock())._asdict()

    def relations(self, user: str) -> Columns:
        """Returns the brands that a user has `followed` and `blocked`, the latest first."""
        key = key_of(user)
        return {
            "followed": self.store.followed_brands(key),
            "blocked": self.store.blocked_brands(key),
        }

    def in_network(self, user: str, most: int) -> Columns:
        """Returns what is new for a user; see `EventStore.in_network`."""
        return self.store.in_network(key_of(user), most, now=self._clock())._asdict()

    def new_items(self, most: int) -> Columns:
        """Returns what is new; see `EventStore.new_items`."""
        return self.store.new_items(most, now=self._clock())._asdict()

    def available(self, items: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Returns which items are neither deleted nor out of stock."""
        return self.store.available(np.asarray(items, np.int64))

    def activity(self) -> Columns:
        """Returns what all users did; see `EventStore.activity`."""
        return self.store.activity(self._half_life_ms, now=self._clock())._asdict()

    def append(self, messages: Sequence[bytes], timeout_s: float = 10.0) -> Appended:
        """Keeps the events of JSON messages: once this returns, nothing loses them.

        Raises:
            UnavailableError: they may not be kept.
        """
        raise NotImplementedError
