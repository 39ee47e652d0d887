"""Side effects of a feed: what is kept of an answer once it is given."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int64

from minirec.files.schema import require_whole
from minirec.recommend.candidates import Candidates
from minirec.recommend.pipeline import FeedQuery, SideEffect


class ServedHistory(SideEffect):
    """Keeps what users were shown, the newest items of the users that came last; in memory."""

    def __init__(self, *, most_users: int = 10_000, most_items: int = 500, keep_s: float = 3600.0):
        """Takes the bounds.

        Args:
            most_users: users; who has not come for longest is forgotten first.
            most_items: items of a user.
            keep_s: seconds after which an item counts as not shown.

        Raises:
            ValueError: a bound is no whole number above 0.
        """
        require_whole("most_users", most_users)
        require_whole("most_items", most_items)
        self._most_users, self._most_items, self._keep_s = most_users, most_items, keep_s
        self._shown: collections.OrderedDict[str, list[tuple[float, int]]] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def run(self, query: FeedQuery, shown: Candidates) -> None:
        """Takes note of what was shown."""
        with self._lock:
            items = self._shown.setdefault(query.user, [])
            self._shown.move_to_end(query.user)
            items += [(query.now, item) for item in shown.item.tolist()]
            del items[: -self._most_items]
            while len(self._shown) > self._most_users:
                self._shown.popitem(last=False)

    def of(self, user: str, now: float) -> Int64[np.ndarray, " n"]:
        """Returns the items that a user was shown lately, oldest first."""
        with self._lock:
            shown = list(self._shown.get(user, ()))
        return np.array([item for at, item in shown if now - at <= self._keep_s], np.int64)


class RequestCache(SideEffect):
    """Keeps answers by the request's id, so that one that is asked again is answered the same."""

    def __init__(self, *, most: int = 1000, keep_s: float = 60.0):
        """Takes the bounds.

        Args:
            most: answers; the oldest are forgotten first.
            keep_s: seconds that one is good for.

        Raises:
            ValueError: `most` is no whole number above 0.
        """
        require_whole("most", most)
        self._most, self._keep_s = most, keep_s
        self._answers: collections.OrderedDict[tuple[str, str], tuple[float, Candidates]] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def enable(self, query: FeedQuery) -> bool:
        """Returns whether the request has an id that its client gave."""
        return bool(query.get("request_id"))

    def run(self, query: FeedQuery, shown: Candidates) -> None:
        """Keeps what was shown."""
        key = (query.user, query["request_id"])
        with self._lock:
            self._answers[key] = (query.now, shown)
            self._answers.move_to_end(key)
            while len(self._answers) > self._most:
                self._answers.popitem(last=False)

    def of(self, user: str, request_id: str, now: float) -> Candidates | None:
        """Returns what a request was answered with; None where it is not known."""
        with self._lock:
            at, shown = self._answers.get((user, request_id), (0.0, None))
        return shown if shown is not None and now - at <= self._keep_s else None


class Topic(Protocol):
    """Where messages are kept: Kafka, or a log on the disk."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message, a JSON object.

        Raises:
            OSError: it cannot be kept.
        """
        ...


class ServedTopic(SideEffect):
    """Tells a topic what was shown: whoever trains later needs what was not clicked as well."""

    def __init__(self, topic: Topic, raw_item_ids: Sequence[str]):
        """Takes the topic, and what the log calls the items."""
        self._topic, self._raw_item_ids = topic, raw_item_ids

    def run(self, query: FeedQuery, shown: Candidates) -> None:
        """Sends one message: user, time, and the items, best first, with their scores."""
        items = [self._raw_item_ids[item] for item in shown.item.tolist()]
        self._topic.send(
            {
                "user": query.user,
                "time_ms": round(query.now * 1e3),
                "items": items,
                "scores": [round(score, 6) for score in shown["score"].tolist()],
            }
        )


class CountShown(SideEffect):
    """Counts what was shown, for metrics."""

    def __init__(self, count: Callable[[FeedQuery, Candidates], None]):
        """Takes what counts."""
        self._count = count

    def run(self, query: FeedQuery, shown: Candidates) -> None:
        """Counts."""
        self._count(query, shown)
