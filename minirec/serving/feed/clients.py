"""Clients of a feed's services: what a feed asks where they are other processes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np
from jaxtyping import Bool, Float, Int

from minirec.recommend.feed.live import PastEvents
from minirec.recommend.feed.shop import Shop
from minirec.serving.feed.grpc_service import MOST_BYTES, PROTO

_ELSEWHERE = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    )
)
_AVOIDED_S = 5.0  # for which a replica that gave no answer is asked last
_TO_CONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", MOST_BYTES),
)


class Replicas:
    """Calls a service that several processes serve: each call one of them, in turn.

    A call that fails for a reason that is not its own is made once more, of another replica; what
    was answered late or not at all is then asked last for a while.
    """

    def __init__(
        self,
        service: str,
        addresses: Sequence[str],
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Connects to nobody yet.

        Args:
            service: its name in the proto.
            addresses: HOST:PORT of the replicas.
            timeout_s: seconds of a call.
            clock: seconds.

        Raises:
            ValueError: no address.
        """
        if not addresses:
            raise ValueError(f"{service}: at least one address HOST:PORT is needed")
        self.messages, stubs = grpc.protos_and_services(PROTO)  # pyrefly: ignore
        self._timeout_s = timeout_s
        self._channels = [grpc.insecure_channel(at, options=_TO_CONNECT) for at in addresses]
        stub = getattr(stubs, f"{service}Stub")
        self._stubs = [stub(channel) for channel in self._channels]
        self._turn, self._lock = itertools.count(), threading.Lock()
        self._failed_at, self._clock = [-_AVOIDED_S] * len(addresses), clock
        self._service, self._addresses = service, tuple(addresses)

    def call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """Returns what a replica answers.

        Raises:
            OSError: two of them, or the only one, gave no answer.
            ValueError: the request cannot be.
        """
        seconds = self._timeout_s if timeout_s is None else timeout_s
        tried: list[str] = []
        for place in self._order()[:2]:
            try:
                answer = getattr(self._stubs[place], method)(request, timeout=seconds)
            except grpc.RpcError as error:
                code, details = error.code(), error.details()  # pyrefly: ignore
                if code not in _ELSEWHERE:
                    raise ValueError(f"{self._service}.{method}: {details}") from error
                tried.append(f"{self._addresses[place]}: {code.name.lower()}")
                with self._lock:
                    self._failed_at[place] = self._clock()
            else:
                with self._lock:
                    self._failed_at[place] = -_AVOIDED_S
                return answer
        raise OSError(f"{self._service}.{method}: {'; '.join(tried)}")

    def close(self) -> None:
        """Ends the connections."""
        for channel in self._channels:
            channel.close()

    def _order(self) -> list[int]:
        first, number = next(self._turn), len(self._stubs)
        places = [(first + place) % number for place in range(number)]
        since = self._clock() - _AVOIDED_S
        with self._lock:
            return sorted(places, key=lambda place: self._failed_at[place] > since)


class RemoteRanker:
    """A ranker of other processes; an `ActionRanker`."""

    def __init__(self, replicas: Replicas, shop: Shop, actions: Sequence[str]):
        """Takes who answers, the items, and the names of the event types."""
        self._replicas, self._shop, self.actions = replicas, shop, tuple(actions)

    def probabilities(
        self, past: PastEvents, items: Int[np.ndarray, " C"], now: float
    ) -> Float[np.ndarray, "C A"]:
        """Returns the probability of every action for every item.

        Raises:
            OSError: nobody answers.
            ValueError: they rank other actions.
        """
        raw = self._shop.raw_item_ids
        request = self._replicas.messages.ScoreRequest(
            events=events_of(self._replicas.messages, past, self._shop, self.actions),
            candidates=[raw[item] for item in items.tolist()],
            now_ms=round(1e3 * now),
        )
        answer = self._replicas.call("Score", request)
        if tuple(answer.actions) != self.actions:
            raise ValueError(f"actions: {list(answer.actions)}; expected {list(self.actions)}")
        return np.array(answer.probabilities).reshape(len(items), len(self.actions))


class RemoteTowers:
    """Towers of other processes; a `Finder`, and a `VectorOf`."""

    def __init__(self, replicas: Replicas, shop: Shop, actions: Sequence[str]):
        """Takes who answers, the items, and the names of the event types."""
        self._replicas, self._shop, self._actions = replicas, shop, tuple(actions)

    def find(
        self, past: PastEvents, most: int, now: float
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Returns the nearest items.

        Raises:
            OSError: nobody answers.
        """
        del now
        messages = self._replicas.messages
        events = events_of(messages, past, self._shop, self._actions)
        answer = self._replicas.call("Nearest", messages.NearestRequest(events=events, num=most))
        of = self._shop.item_of
        kept = [place for place, raw in enumerate(answer.item_ids) if raw in of]
        return (
            np.array([of[answer.item_ids[place]] for place in kept], np.int64),
            np.array([answer.scores[place] for place in kept]),
        )

    def vectors(self, items: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n E"]:
        """Returns the vectors of items.

        Raises:
            OSError: nobody answers.
        """
        raw = self._shop.raw_item_ids
        request = self._replicas.messages.VectorsRequest(
            item_ids=[raw[item] for item in items.tolist()]
        )
        answer = self._replicas.call("Vectors", request)
        return np.array(answer.values).reshape(len(items), answer.width)


class _Appended(NamedTuple):
    accepted: int
    malformed: dict[int, str]


class RemoteEvents:
    """An event store of other processes; every method raises OSError where nobody answers."""

    def __init__(self, replicas: Replicas):
        """Takes who answers."""
        self._replicas = replicas

    def append(self, messages: Sequence[bytes], timeout_s: float = 10.0) -> _Appended:
        """Keeps the events of JSON messages; sent twice, they count once."""
        request = self._replicas.messages.AppendRequest(messages=messages)
        answer = self._replicas.call("Append", request, timeout_s)
        return _Appended(answer.accepted, {one.place: one.reason for one in answer.malformed})

    def history(self, user: str, most: int) -> dict[str, np.ndarray]:
        """Returns a user's events, newest first."""
        answer = self._of_user("History", user, most)
        names = ("item", "brand", "category", "action", "time")
        return {name: np.array(getattr(answer, name), np.int64) for name in names}

    def relations(self, user: str) -> dict[str, np.ndarray]:
        """Returns `followed` and `blocked` brands."""
        answer = self._of_user("Relations", user, 0)
        return {name: np.array(getattr(answer, name), np.int64) for name in ("followed", "blocked")}

    def in_network(self, user: str, most: int) -> dict[str, np.ndarray]:
        """Returns what is new for a user."""
        return _items(self._of_user("InNetwork", user, most))

    def new_items(self, most: int) -> dict[str, np.ndarray]:
        """Returns what is new."""
        request = self._replicas.messages.NewItemsRequest(num=most)
        return _items(self._replicas.call("NewItems", request))

    def available(self, items: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Returns which items can be had."""
        request = self._replicas.messages.AvailableRequest(item=np.asarray(items).tolist())
        return np.array(self._replicas.call("Available", request).available, bool)

    def activity(self) -> dict[str, np.ndarray]:
        """Returns what all users did."""
        answer = self._replicas.call("Activity", self._replicas.messages.ActivityRequest())
        count = np.array(answer.count, np.int64)
        return {
            "item": np.array(answer.item, np.int64),
            "score": np.array(answer.score, np.float64),
            "count": count.reshape(len(answer.item), answer.num_actions),
        }

    def _of_user(self, method: str, user: str, most: int) -> Any:
        return self._replicas.call(method, self._replicas.messages.OfUser(user=user, num=most))


def events_of(messages: Any, past: PastEvents, shop: Shop, actions: Sequence[str]) -> list[Any]:
    """Returns a history as the wire has it."""
    return [
        messages.Event(
            item_id=shop.raw_item_ids[item], action=actions[action], time_ms=round(1e3 * at)
        )
        for item, action, at in zip(*(column.tolist() for column in past), strict=True)
    ]


def _items(answer: Any) -> dict[str, np.ndarray]:
    return {name: np.array(getattr(answer, name), np.int64) for name in ("item", "time")}
