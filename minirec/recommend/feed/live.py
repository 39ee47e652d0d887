"""What a feed knows of people and items: what they did, what they follow, what is new.

`LiveEvents` is what components ask; `ShopEvents` answers it from an event store, which knows users,
items and brands by keys of its own, and from the records that a model was trained with.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from minirec.recommend.feed.shop import Shop

_MOST_SAID = 20_000  # Answers that are kept for when the store is away.


class PastEvents(NamedTuple):
    """What a user did, oldest first.

    Attributes:
        item: item ids, int64 `[n]`.
        action: event types, int64 `[n]`.
        time: seconds since 1970, float64 `[n]`.
    """

    item: Int64[np.ndarray, " n"]
    action: Int64[np.ndarray, " n"]
    time: Float64[np.ndarray, " n"]

    @classmethod
    def of(cls, item: object = (), action: object = (), time: object = ()) -> PastEvents:
        """Returns events from lists or arrays."""
        return cls(
            np.asarray(item, np.int64), np.asarray(action, np.int64), np.asarray(time, np.float64)
        )

    def newest(self, most: int) -> PastEvents:
        """Returns the newest events, oldest first."""
        return PastEvents(*(column[max(0, len(column) - most) :] for column in self))


class Listed(NamedTuple):
    """Items that are new or back in stock, newest first: ids `[n]`, seconds since 1970 `[n]`."""

    item: Int64[np.ndarray, " n"]
    time: Float64[np.ndarray, " n"]


class Popularity(NamedTuple):
    """What all users did lately, an entry an item.

    Attributes:
        item: item ids, int64 `[n]`.
        score: events, each halved a half-life that has passed since, float64 `[n]`.
        count: events by action, int64 `[n, A]`.
    """

    item: Int64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]
    count: Int64[np.ndarray, "n A"]


class LiveEvents(Protocol):
    """Answers who did what lately; safe among threads."""

    def history(self, user: str, most: int) -> PastEvents:
        """Returns a user's newest events."""
        ...

    def followed(self, user: str) -> Int64[np.ndarray, " n"]:
        """Returns the brands that a user follows."""
        ...

    def blocked(self, user: str) -> Int64[np.ndarray, " n"]:
        """Returns the brands that a user blocks."""
        ...

    def in_network(self, user: str, most: int) -> Listed:
        """Returns what is new of brands and categories that a user follows or returns to."""
        ...

    def new_items(self, most: int) -> Listed:
        """Returns what is new of whatever brand."""
        ...

    def available(self, items: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Returns which items can be had."""
        ...

    def popularity(self) -> Popularity:
        """Returns what all users did lately; it may be some seconds old."""
        ...


class EventStore(Protocol):
    """An event store, here or elsewhere: `pipelines.events.store` by its users' names.

    Items and brands are keys, times milliseconds; what is returned has columns of these names.
    """

    def history(self, user: str, most: int) -> Mapping[str, np.ndarray]:
        """Returns `item`, `action` and `time`, newest first."""
        ...

    def relations(self, user: str) -> Mapping[str, np.ndarray]:
        """Returns `followed` and `blocked` brands."""
        ...

    def in_network(self, user: str, most: int) -> Mapping[str, np.ndarray]:
        """Returns `item` and `time`, newest first."""
        ...

    def new_items(self, most: int) -> Mapping[str, np.ndarray]:
        """Returns `item` and `time`, newest first."""
        ...

    def available(self, items: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Returns which items are neither deleted nor out of stock."""
        ...

    def activity(self) -> Mapping[str, np.ndarray]:
        """Returns `item`, `score` and `count` of what all users did."""
        ...


class ShopEvents:
    """`LiveEvents` of a shop's items, from an event store and from records.

    What the store holds of items that the shop lacks is left out. Where the store does not answer
    (an OSError), the last that it said of a user's history and relations and of stock stands; what
    is new and popular is not known then.
    """

    def __init__(
        self,
        store: EventStore,
        shop: Shop,
        records: Callable[[str, int], PastEvents] = lambda user, most: PastEvents.of(),
        *,
        popularity_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Takes what answers.

        Args:
            store: the event store.
            shop: the items, with their keys there.
            records: the newest events of a user in the log that the model was trained with; the
                store's later ones come behind them.
            popularity_s: seconds that one look at what all users did is good for.
            clock: seconds.
        """
        self._store, self._shop, self._records = store, shop, records
        self._popularity_s, self._clock = popularity_s, clock
        self._lock = threading.Lock()
        self._popularity: tuple[float, Popularity] | None = None
        self._said: collections.OrderedDict[tuple[str, str], Mapping[str, np.ndarray]] = (
            collections.OrderedDict()
        )
        self._available: np.ndarray | None = None

    def history(self, user: str, most: int) -> PastEvents:
        """Returns a user's newest events: those of the records, and behind them the store's."""
        try:
            # A page asks for fewer than a feed does: neither takes the other's last word.
            found = self._last_said(
                "history", user, lambda: self._store.history(user, most), f"history of {most}"
            )
        except OSError:
            return self._records(user, most)
        item, known = self._shop.items_of(found["item"])
        live = PastEvents.of(item, found["action"][known], found["time"][known] / 1e3)
        live = PastEvents(*(column[::-1] for column in live))
        before = self._records(user, most)
        if len(before.time):
            later = live.time > before.time[-1]
            live = PastEvents(*(column[later] for column in live))
        both = PastEvents(*(np.concatenate(two) for two in zip(before, live, strict=True)))
        return both.newest(most)

    def followed(self, user: str) -> Int64[np.ndarray, " n"]:
        """Returns the brands that a user follows."""
        return self._shop.brands_of(self._relations(user)["followed"])

    def blocked(self, user: str) -> Int64[np.ndarray, " n"]:
        """Returns the brands that a user blocks."""
        return self._shop.brands_of(self._relations(user)["blocked"])

    def in_network(self, user: str, most: int) -> Listed:
        """Returns what is new of brands and categories that a user follows or returns to."""
        return self._listed(self._store.in_network(user, most))

    def new_items(self, most: int) -> Listed:
        """Returns what is new of whatever brand."""
        return self._listed(self._store.new_items(most))

    def available(self, items: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Returns which items can be had."""
        try:
            found = self._store.available(self._shop.keys[items])
        except OSError:
            if self._available is None:
                raise
            return self._available[items]
        with self._lock:
            if self._available is None:
                self._available = np.ones(len(self._shop.keys), bool)
            self._available[items] = found
        return found

    def popularity(self) -> Popularity:
        """Returns what all users did lately; it is some seconds old at most."""
        with self._lock:  # Who comes while another looks waits for what that one finds.
            now = self._clock()
            if self._popularity is None or now - self._popularity[0] >= self._popularity_s:
                found = self._store.activity()
                item, known = self._shop.items_of(found["item"])
                self._popularity = (
                    now, Popularity(item, found["score"][known], found["count"][known])
                )  # fmt: skip
            return self._popularity[1]

    def _relations(self, user: str) -> Mapping[str, np.ndarray]:
        return self._last_said("relations", user, lambda: self._store.relations(user))

    def _last_said(
        self,
        what: str,
        user: str,
        ask: Callable[[], Mapping[str, np.ndarray]],
        exactly: str | None = None,
    ) -> Mapping[str, np.ndarray]:
        """Returns what the store says of a user, or what it said last where it does not answer.

        That is its last word to the same question, `exactly`, or else to one of the kind, `what`.
        """
        names = [what] if exactly is None else [exactly, what]
        try:
            found = ask()
        except OSError:
            with self._lock:
                for name in names:
                    if (name, user) in self._said:
                        return self._said[name, user]
            raise
        with self._lock:
            for name in names:
                self._said[name, user] = found
                self._said.move_to_end((name, user))
            while len(self._said) > _MOST_SAID:
                self._said.popitem(last=False)
        return found

    def _listed(self, found: Mapping[str, np.ndarray]) -> Listed:
        item, known = self._shop.items_of(found["item"])
        return Listed(item, found["time"][known] / 1e3)
