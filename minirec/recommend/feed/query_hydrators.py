"""Query hydrators of a feed: what is known of who asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int64

from minirec.recommend.feed.live import LiveEvents
from minirec.recommend.feed.sources import past_of
from minirec.recommend.pipeline import FeedQuery, QueryHydrator


class History(QueryHydrator):
    """What the user did: `past`, oldest first, and `is_new_user`."""

    def __init__(self, events: LiveEvents, most: int, *, new_below: int = 5):
        """Takes who knows.

        Args:
            events: answers.
            most: events at most.
            new_below: who has fewer is new.
        """
        self._events, self._most, self._new_below = events, most, new_below

    def hydrate(self, query: FeedQuery) -> Mapping[str, Any]:
        """Returns the newest events."""
        past = self._events.history(query.user, self._most)
        return {"past": past, "is_new_user": len(past.item) < self._new_below}


class Bought(QueryHydrator):
    """What the user bought: `bought_items`, the latest time by item; needs `past`."""

    def __init__(self, action: int):
        """Takes the event type of a purchase."""
        self._action = action

    def hydrate(self, query: FeedQuery) -> Mapping[str, Any]:
        """Returns times in seconds since 1970 by item."""
        past = past_of(query)
        bought = past.action == self._action
        pairs = zip(past.item[bought].tolist(), past.time[bought].tolist(), strict=True)
        return {"bought_items": dict(pairs)}  # The last of an item is the latest.


class Followed(QueryHydrator):
    """The brands that the user follows: `followed_brand`."""

    def __init__(self, events: LiveEvents):
        """Takes who knows."""
        self._events = events

    def hydrate(self, query: FeedQuery) -> Mapping[str, Any]:
        """Returns their numbers."""
        return {"followed_brand": self._events.followed(query.user)}


class BlockedBrands(QueryHydrator):
    """The brands that the user blocks: `blocked_brand`, which `Blocked("brand")` goes by."""

    def __init__(self, events: LiveEvents):
        """Takes who knows."""
        self._events = events

    def hydrate(self, query: FeedQuery) -> Mapping[str, Any]:
        """Returns their numbers."""
        return {"blocked_brand": self._events.blocked(query.user)}


class Served(Protocol):
    """Knows what was shown to whom."""

    def of(self, user: str, now: float) -> Int64[np.ndarray, " n"]:
        """Returns the items that a user was shown lately; `now` in seconds since 1970."""
        ...


class ServedBefore(QueryHydrator):
    """What the user was shown lately: `served_items`; only where the request wants new ones."""

    def __init__(self, served: Served):
        """Takes who knows."""
        self._served = served

    def enable(self, query: FeedQuery) -> bool:
        """Returns whether the request says `leave_out_served`."""
        return bool(query.get("leave_out_served"))

    def hydrate(self, query: FeedQuery) -> Mapping[str, Any]:
        """Returns the items."""
        return {"served_items": self._served.of(query.user, query.now)}
