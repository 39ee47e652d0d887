"""Answers requests by tiles: a queue, a thread that starts searches, one that ends them.

What waits when a search begins goes along, up to a tile; nobody waits for company unless that is
asked for. Two tiles are under way at a time, so that the device searches for one while the host
works on the other. Catalogues and models change between two tiles: a request is answered by the
version that was served when it came.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np

from minirec.serving.admission import Admission
from minirec.serving.catalogue import Stock
from minirec.serving.query import Found, Query
from minirec.serving.recommender import Recommender, Served
from minirec.serving.refusals import BadRequestError, LateError, RefusedError, SearchFailedError
from minirec.serving.rules import Rule

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
        history: raw item ids, oldest first.
        num: items to recommend; None: as many as a search has beams, ten at most.
        exclude: raw item ids that must not be recommended.
        allow: rules about the catalogue's columns.
        rank_by: one of `Served.rankings`; None: the first of them.
        exclude_seen: whether items of the history are left out; None: as the run's config says.
        sold_out: whether items that are out of stock may be recommended.
        skip_unknown: leave out ids that the catalogue lacks, and list them in the answer.
        explain: whether the answer says how it came about.
        deadline_s: seconds in which the answer must be there; None: the engine's.
    """

    history: Sequence[str] = ()
    num: int | None = None
    exclude: Sequence[str] = ()
    allow: tuple[Rule, ...] = ()
    rank_by: str | None = None
    exclude_seen: bool | None = None
    sold_out: bool = False
    skip_unknown: bool = False
    explain: bool = False
    deadline_s: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What a request gets.

    Attributes:
        found: the items, best first.
        rank_by: what ranked them.
        served: the version that answered.
        stock_number: changes of stock that it knew of.
        unknown: ids of the request that the catalogue lacks and that were left out.
        queued_s: seconds until its tile began.
        searched_s: seconds that its tile took.
    """

    found: Found
    rank_by: str
    served: Served
    stock_number: int
    unknown: tuple[str, ...]
    queued_s: float
    searched_s: float

    @property
    def catalogue_version(self) -> str:
        """The catalogue's number, and how many changes of stock."""
        return f"{self.served.catalogue.number}.{self.stock_number}"


class Observer(Protocol):
    """Hears of what happens to requests, from any thread."""

    def tile(self, size: int, seconds: float) -> None:
        """A tile of so many queries has been answered."""
        ...

    def answered(self, answer: Answer, seconds: float) -> None:
        """A request has been answered, so long after it came."""
        ...

    def refused(self, reason: str) -> None:
        """A request gets no answer: "bad_request", a `RefusedError`'s, "late", "gone", "failed"."""
        ...


class Nobody:
    """An observer that does not listen."""

    def tile(self, size: int, seconds: float) -> None:
        """Does nothing."""

    def answered(self, answer: Answer, seconds: float) -> None:
        """Does nothing."""

    def refused(self, reason: str) -> None:
        """Does nothing."""


@dataclasses.dataclass(eq=False)
class _Waiting:
    request: Request
    query: Query
    num: int
    unknown: tuple[str, ...]
    served: Served
    stock: Stock
    key: Any
    came: float
    expires: float
    future: Future[Answer]


@dataclasses.dataclass(eq=False)
class _Flying:
    tile: list[_Waiting]
    wait: Callable[[Callable[[], None]], list[Found]]
    stock_number: int
    started: float


class Engine:
    """Answers requests; safe among threads.

    Attributes:
        recommender: what answers tiles.
        exclude_seen: whether items of a history are left out where a request does not say.
    """

    def __init__(
        self,
        recommender: Recommender,
        served: Served,
        *,
        exclude_seen: bool,
        stock: Stock | None = None,
        max_queue: int = 1024,
        in_flight: int = 2,
        max_wait_s: float = 0.0,
        deadline_s: float = 1.0,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Compiles everything that a request may need, and begins.

        Args:
            recommender: what answers tiles.
            served: the first version.
            exclude_seen: whether items of a history are left out where a request does not say.
            stock: what can be sold; None: all.
            max_queue: requests that may wait.
            in_flight: tiles that may be under way.
            max_wait_s: seconds that a query waits for company; 0: none.
            deadline_s: seconds in which an answer must be there where a request does not say.
            observer: hears of what happens.
            clock: seconds, never backwards.

        Raises:
            ValueError: a number out of range, or this processor's programs depend on the place in
                a tile.
        """
        for name, value, least in (
            ("max_queue", max_queue, 1),
            ("in_flight", in_flight, 1),
            ("max_wait_s", max_wait_s, 0),
        ):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if not deadline_s > 0:
            raise ValueError(f"deadline_s={deadline_s} must be above 0")
        recommender.warm_up(served)
        self.recommender = recommender
        self.exclude_seen, self._deadline_s = exclude_seen, deadline_s
        self._max_wait_s, self._in_flight = max_wait_s, in_flight
        self._observer, self._clock = observer or Nobody(), clock
        self._served = served
        self._stock = stock or Stock(np.ones(served.catalogue.num_items, bool))
        self._admission = Admission(recommender.tile, max_queue)
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._flying: collections.deque[_Flying] = collections.deque()
        self._changed = threading.Condition()
        self._draining = self._closed = False
        self._searched = 0  # tiles under way whose search has ended; the host still works on them
        self._beginning = 0  # tiles that are between queue and flight
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for work, name in ((self._begin_tiles, "begin tiles"), (self._end_tiles, "end tiles"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def served(self) -> Served:
        """What requests that come now are answered with."""
        return self._served

    @property
    def deadline_s(self) -> float:
        """Seconds in which an answer must be there where a request does not say."""
        return self._deadline_s

    def now(self) -> tuple[Served, Stock]:
        """Returns what is served, and what of it can be sold, of one version."""
        with self._changed:
            return self._served, self._stock

    @property
    def stock(self) -> Stock:
        """What can be sold of the catalogue that is served."""
        return self._stock

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def num_flying(self) -> int:
        """Tiles under way."""
        return len(self._flying) + self._beginning

    @property
    def admission(self) -> Admission:
        """Who is taken on, with its averages."""
        return self._admission

    @property
    def is_draining(self) -> bool:
        """Whether nobody is taken on any more."""
        return self._draining

    def swap(self, served: Served, stock: Stock) -> None:
        """Serves another version from the next request on; those that wait keep theirs."""
        with self._changed:
            self._served, self._stock = served, stock

    def check_room(self) -> None:
        """Refuses who would be refused at any rate, before anything is read of the request.

        Raises:
            RefusedError: the queue is full, or the engine drains.
        """
        try:
            self._check_room(math.inf)
        except RefusedError as error:
            self._observer.refused(error.reason)
            raise

    def _check_room(self, deadline_s: float) -> None:
        if self._draining:
            raise RefusedError("draining", "the server is going down", 1.0)
        self._admission.check(len(self._queue), self.num_flying, deadline_s)

    def submit(self, request: Request) -> Future[Answer]:
        """Takes a request on and returns what will hold its answer, or `LateError` and the like.

        A future that is cancelled before its search begins costs nothing more.

        Raises:
            BadRequestError: it asks for what cannot be.
            RefusedError: it is not taken on.
        """
        try:
            return self._submit(request)
        except BadRequestError:
            self._observer.refused("bad_request")
            raise
        except RefusedError as error:
            self._observer.refused(error.reason)
            raise

    def _submit(self, request: Request) -> Future[Answer]:
        served, stock = self.now()
        query, num, unknown = self._query(request, served)
        if request.allow:
            served.catalogue.columns.mask(request.allow, served.catalogue.num_items)
        key = (served, request.allow, request.sold_out, self.recommender.key(query))
        deadline_s = self._deadline_s if request.deadline_s is None else request.deadline_s
        if not deadline_s > 0:
            raise BadRequestError("deadline_ms", f"{deadline_s * 1000:g}; must be above 0")
        now = self._clock()
        future: Future[Answer] = Future()
        waiting = _Waiting(
            request, query, num, unknown, served, stock, key, now, now + deadline_s, future
        )
        with self._changed:
            self._check_room(deadline_s)
            self._queue.append(waiting)
            self._changed.notify_all()
        return future

    def drain(self, timeout_s: float | None = None) -> bool:
        """Takes nobody on any more and waits until all are answered; returns whether they are."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: not self._queue and not self._flying and not self._beginning, timeout_s
            )

    def close(self) -> None:
        """Ends the threads; who still waits is refused."""
        with self._changed:
            self._draining = self._closed = True
            left, self._queue = list(self._queue), collections.deque()
            self._changed.notify_all()
        for waiting in left:
            if waiting.future.set_running_or_notify_cancel():
                error = RefusedError("draining", "the server is going down", 1.0)
                waiting.future.set_exception(error)
        for thread in self._threads:
            thread.join()

    def _query(self, request: Request, served: Served) -> tuple[Query, int, tuple[str, ...]]:
        catalogue, most = served.catalogue, self.recommender.programs.num_beams
        num = min(10, most) if request.num is None else request.num
        if not 1 <= num <= most:
            raise BadRequestError("num", f"{num}; must lie in [1, {most}], the search's beams")
        rank_by = request.rank_by or served.rankings[0]
        if rank_by not in served.rankings:
            raise BadRequestError(
                "rank_by", f"{rank_by!r}; this run has {', '.join(served.rankings)}"
            )
        unknown: list[str] = []
        known: dict[str, np.ndarray] = {}
        for name, given in (("history", request.history), ("exclude", request.exclude)):
            found = []
            for place, raw in enumerate(given):
                item = catalogue.item_of.get(raw)
                if item is not None:
                    found.append(item)
                elif request.skip_unknown:
                    unknown.append(raw)
                else:
                    raise BadRequestError(f"{name}[{place}]", f"the catalogue has no item {raw!r}")
            known[name] = np.array(found, np.int32)
        exclude_seen = self.exclude_seen if request.exclude_seen is None else request.exclude_seen
        unwanted = set(known["exclude"].tolist())
        if exclude_seen:
            unwanted.update(known["history"].tolist())
        excluded = np.array(sorted(unwanted), np.int32)
        query = Query(known["history"], excluded, rank_by, request.explain)
        return query, num, tuple(unknown)

    def _begin_tiles(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_begin)
                if self._closed:
                    return
                tile = self._next_tile()
                if not tile:
                    self._changed.notify_all()
                    continue
                self._beginning += 1
            flying = self._begin(tile)
            with self._changed:
                self._beginning -= 1
                if flying is not None:
                    self._flying.append(flying)
                self._changed.notify_all()

    def _may_begin(self) -> bool:
        if self._closed or not self._queue:
            return self._closed
        # Two searches at a time answer more users a second, and each of them later: a second one
        # begins beside a first where a whole tile waits, and not for the few that came meanwhile.
        searching = len(self._flying) - self._searched
        most = self._in_flight if len(self._queue) >= self.recommender.tile else 1
        return searching < most and len(self._flying) < self._in_flight

    def _next_tile(self) -> list[_Waiting]:
        """Takes the first query and those that can share its tile; the lock is held."""
        self._drop_the_late()
        if not self._queue:
            return []
        if self._max_wait_s and len(self._queue) < self.recommender.tile and not self._draining:
            begin = self._queue[0].came + self._max_wait_s
            while (left := begin - self._clock()) > 0 and not self._closed:
                self._changed.wait(left)
                if len(self._queue) >= self.recommender.tile:
                    break
            self._drop_the_late()
            if not self._queue:
                return []
        key = self._queue[0].key
        tile: list[_Waiting] = []
        rest: collections.deque[_Waiting] = collections.deque()
        while self._queue and len(tile) < self.recommender.tile:
            waiting = self._queue.popleft()
            if waiting.key != key:
                rest.append(waiting)
            elif waiting.future.set_running_or_notify_cancel():
                tile.append(waiting)
            else:
                self._observer.refused("gone")
        rest.extend(self._queue)
        self._queue = rest
        return tile

    def _drop_the_late(self) -> None:
        now = self._clock()
        while self._queue and self._queue[0].expires <= now:
            self._end_late(self._queue.popleft())

    def _end_late(self, waiting: _Waiting) -> None:
        if waiting.future.running() or waiting.future.set_running_or_notify_cancel():
            self._observer.refused("late")
            waiting.future.set_exception(LateError("the deadline passed before the answer"))

    def _begin(self, tile: list[_Waiting]) -> _Flying | None:
        started = self._clock()
        on_time = []
        for waiting in tile:
            if waiting.expires <= started:
                self._end_late(waiting)
            else:
                on_time.append(waiting)
        if not on_time:
            return None
        first = on_time[0]
        try:
            allowed, stock_number = first.stock.now()
            catalogue = first.served.catalogue
            allowed = catalogue.listed if first.request.sold_out else allowed & catalogue.listed
            if first.request.allow:
                rules = first.request.allow
                allowed = allowed & catalogue.columns.mask(rules, catalogue.num_items)
            queries = [waiting.query for waiting in on_time]
            wait = self.recommender.start(first.served, queries, allowed)
        except Exception:
            self._fail(on_time)
            return None
        return _Flying(on_time, wait, stock_number, started)

    def _may_end(self) -> bool:
        return bool(self._flying) or (self._closed and not self._beginning)

    def _end_tiles(self) -> None:
        last_end = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(self._may_end)
                if not self._flying:
                    return
                flying = self._flying[0]
            try:
                found = flying.wait(self._one_searched)
            except Exception:
                found = None
                self._fail(flying.tile)
            now = self._clock()
            with self._changed:
                self._flying.popleft()
                self._searched = 0
                interval = now - last_end if flying.started < last_end else None
                self._admission.tile_done(now - flying.started, interval)
                last_end = now
                self._changed.notify_all()
            if found is not None:
                self._observer.tile(len(flying.tile), now - flying.started)
                for waiting, one in zip(flying.tile, found, strict=True):
                    self._answer(waiting, one, flying, now)

    def _one_searched(self) -> None:
        with self._changed:
            self._searched = 1
            self._changed.notify_all()

    def _answer(self, waiting: _Waiting, found: Found, flying: _Flying, now: float) -> None:
        if waiting.expires <= now:
            self._end_late(waiting)
            return
        found = dataclasses.replace(
            found, item=found.item[: waiting.num], score=found.score[: waiting.num]
        )
        answer = Answer(
            found,
            waiting.query.rank_by,
            waiting.served,
            flying.stock_number,
            waiting.unknown,
            queued_s=flying.started - waiting.came,
            searched_s=now - flying.started,
        )
        self._observer.answered(answer, now - waiting.came)
        waiting.future.set_result(answer)

    def _fail(self, tile: Sequence[_Waiting]) -> None:
        failure_id = uuid.uuid4().hex[:12]
        _LOG.exception("search %s failed", failure_id)
        for waiting in tile:
            self._observer.refused("failed")
            waiting.future.set_exception(SearchFailedError(failure_id))
