"""What HTTP and gRPC both speak for: a feed, its ranker, its towers and its events."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from minirec.recommend.feed.hydrators import VectorOf
from minirec.recommend.feed.judging import ActionRanker
from minirec.recommend.feed.live import EventStore, LiveEvents, PastEvents
from minirec.recommend.feed.shop import Shop
from minirec.recommend.feed.side_effects import RequestCache
from minirec.recommend.feed.sources import Finder
from minirec.recommend.pipeline import Feed, FeedQuery, Pipeline
from minirec.serving.feed.messages import FeedRequest
from minirec.serving.feed.metrics import FeedMetrics
from minirec.serving.feed.workers import Workers
from minirec.serving.refusals import BadRequestError
from minirec.serving.service import log_request

RANKER, RETRIEVAL = "ranker", "retrieval"


class AppendedEvents(Protocol):
    """What became of messages: `pipelines.events.by_name.Appended` is one."""

    @property
    def accepted(self) -> int:
        """Events that are kept."""
        ...

    @property
    def malformed(self) -> Mapping[int, str]:
        """What is wrong with the others, by place."""
        ...


class KeptEvents(EventStore, Protocol):
    """An event store that takes events, too, here or elsewhere."""

    def append(self, messages: Sequence[bytes], timeout_s: float) -> AppendedEvents:
        """Keeps the events of JSON messages.

        Raises:
            OSError: they cannot be kept now.
        """
        ...


class Towers(Finder, VectorOf, Protocol):
    """Finds by vectors, and knows the items'."""


@dataclasses.dataclass(frozen=True, eq=False)
class FeedServices:
    """What a process serves; what it does not is None.

    Attributes:
        role: what it is: "all", "feed", "ranker", "store" or "retrieval".
        version: of the model.
        shop: the items.
        actions: names of the event types, in their order.
        weights: of actions, where a request has none of its own.
        num_shown: items of an answer, where a request does not say.
        most_shown: items that a request may ask for.
        users: some users of the log, to begin with.
        engine: threads that answer.
        metrics: hear of it.
        pipeline: the feed.
        live: what is known of people.
        cache: answers by request.
        ranker: the ranker.
        towers: the towers.
        events: the event store.
        on_close: what ends with the server.
        log_histories: whether log lines show what was asked with.
    """

    role: str
    version: str
    shop: Shop
    actions: Sequence[str]
    weights: Mapping[str, float]
    num_shown: int
    most_shown: int
    users: Sequence[str]
    engine: Workers
    metrics: FeedMetrics
    pipeline: Pipeline | None = None
    live: LiveEvents | None = None
    cache: RequestCache | None = None
    ranker: ActionRanker | None = None
    towers: Towers | None = None
    events: KeptEvents | None = None
    on_close: Sequence[Callable[[], None]] = ()
    log_histories: bool = False
    clock: Callable[[], float] = time.time

    def log(self, request_id: str, route: str, status: int, started: float, **more: Any) -> None:
        """Writes a line about a request."""
        log_request(request_id, route, status, started, **more)

    def drain(self, timeout_s: float) -> None:
        """Takes nobody on any more, and waits so long for those who have been."""
        self.engine.drain(timeout_s)

    def feed(self, request: FeedRequest, request_id: str = "") -> Feed:
        """Returns a user's feed.

        Args:
            request: whose, and what they want of it.
            request_id: what the client calls the request; "": nothing. The same again within a
                minute gets the same items.

        Raises:
            BadRequestError: a field says what cannot be.
        """
        assert self.pipeline is not None
        num = request.num or self.num_shown
        if num > self.most_shown:
            raise BadRequestError("num", f"{num}; must be in [1, {self.most_shown}]")
        values: dict[str, Any] = {
            "num": num,
            "seen_items": self.known(request.seen_items),
            "muted_words": request.muted_words,
            "leave_out_served": request.leave_out_served,
            "diversify": request.diversify,
            "seed": zlib.crc32(f"{request.user}/{request_id}".encode()),
        }
        if request.weights is not None:
            if unknown := sorted(set(request.weights) - set(self.actions)):
                raise BadRequestError(
                    "weights", f"no action {unknown[0]!r}; there are {', '.join(self.actions)}"
                )
            values["weights"] = dict(self.weights) | request.weights
        for name in ("price_from", "price_to"):
            if (price := getattr(request, name)) is not None:
                values[name] = price
        now = self.clock()
        if request_id:
            values["request_id"] = request_id
            if self.cache is not None:
                before = self.cache.of(request.user, request_id, now)
                if before is not None:
                    query = FeedQuery(request.user, now, values)
                    names = self.pipeline.components()["sources"]
                    return Feed(before, query, (), {}, names)
        return self.pipeline.run(FeedQuery(request.user, now, values))

    def known(self, raw_item_ids: Sequence[str]) -> Int[np.ndarray, " n"]:
        """Returns ids of items; those that the shop lacks are left out."""
        of = self.shop.item_of
        return np.array([of[raw] for raw in raw_item_ids if raw in of], np.int64)

    def items_of(self, field: str, raw_item_ids: Sequence[str]) -> Int[np.ndarray, " n"]:
        """Returns ids of items.

        Raises:
            BadRequestError: the shop lacks one.
        """
        of = self.shop.item_of
        for place, raw in enumerate(raw_item_ids):
            if raw not in of:
                raise BadRequestError(f"{field}[{place}]", f"no item {raw!r} is known")
        return np.array([of[raw] for raw in raw_item_ids], np.int64)

    def past_of(
        self, items: Sequence[str], actions: Sequence[str], times_ms: Sequence[int]
    ) -> PastEvents:
        """Returns a history of the wire; items that the shop lacks are left out.

        Raises:
            BadRequestError: an action that there is not.
        """
        number = {name: place for place, name in enumerate(self.actions)}
        for place, name in enumerate(actions):
            if name not in number:
                raise BadRequestError(
                    f"events[{place}].action", f"{name!r}; known are {', '.join(self.actions)}"
                )
        kept = [place for place, raw in enumerate(items) if raw in self.shop.item_of]
        return PastEvents.of(
            [self.shop.item_of[items[place]] for place in kept],
            [number[actions[place]] for place in kept],
            [times_ms[place] / 1e3 for place in kept],
        )

    def append(self, events: Sequence[Mapping[str, Any]], timeout_s: float) -> AppendedEvents:
        """Keeps events; what they lack of id, time, brand and category is filled in.

        Raises:
            OSError: they cannot be kept now.
        """
        assert self.events is not None
        messages = [json.dumps(self._completed(event)).encode() for event in events]
        done = self.events.append(messages, timeout_s)
        self.metrics.events(done.accepted)
        return done

    def close(self) -> None:
        """Ends what the process serves."""
        self.engine.close()
        for end in self.on_close:
            end()

    def _completed(self, event: Mapping[str, Any]) -> dict[str, Any]:
        told = {"event_id": os.urandom(12).hex(), "time_ms": round(self.clock() * 1e3), **event}
        for name in ("user", "item", "brand", "category"):  # Elsewhere ids are texts.
            if type(told.get(name)) is int:
                told[name] = str(told[name])
        item = self.shop.item_of.get(str(event.get("item")))
        if item is not None:
            for name, names in (("brand", self.shop.brands), ("category", self.shop.categories)):
                number = int(getattr(self.shop, name)[item])
                if number >= 0 and told.get(name) is None:
                    told[name] = names[number]
        return told
