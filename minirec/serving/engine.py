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
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from minirec.serving.admission import Admission
from minirec.serving.catalogue import Stock
from minirec.serving.query import Found, Query
from minirec.serving.recommender import Recommender, Served
from minirec.serving.refusals import BadRequestError, LateError, RefusedError, SearchFailedError
from minirec.serving.request import Answer, Pending, Request
from minirec.serving.waiting import Queue, Waiting

_LOG = logging.getLogger(__name__)


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
class _Flying:
    tile: list[Waiting]
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
        self._admission = Admission(max_queue)
        self._queue = Queue(recommender.tile)
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

    def admit(self, deadline_s: float) -> None:
        """Lets a request pass that may be answered in time, before anything of it is read.

        Args:
            deadline_s: seconds from now.

        Raises:
            RefusedError: it would not be taken on.
        """
        try:
            # One tile may be shared with others.
            self._check(max(0, self._queue.num_tiles - 1), deadline_s)
        except RefusedError as error:
            self._observer.refused(error.reason)
            raise

    def submit(self, request: Request, at: tuple[Served, Stock] | None = None) -> Pending:
        """Takes a request on and returns what will hold its answer, or `LateError` and the like.

        A future that is cancelled before its search begins costs nothing more.

        Args:
            request: what is asked.
            at: the version that answers; None: what is served now.

        Raises:
            BadRequestError: it asks for what cannot be.
            RefusedError: it is not taken on.
        """
        try:
            return self._submit(request, at)
        except BadRequestError:
            self._observer.refused("bad_request")
            raise
        except RefusedError as error:
            self._observer.refused(error.reason)
            raise

    def told(self, pending: Pending) -> None:
        """Takes note that a client has been told, now, what became of its request."""
        self._admission.told(pending.expected_s, self._clock() - pending.came)

    def _submit(self, request: Request, at: tuple[Served, Stock] | None) -> Pending:
        deadline_s = self._deadline_s if request.deadline_s is None else request.deadline_s
        if not deadline_s > 0:
            raise BadRequestError("deadline_ms", f"{deadline_s * 1000:g}; must be above 0")
        served, stock = at or self.now()
        query, num, unknown = self._query(request, served)
        if request.allow:
            served.catalogue.columns.mask(request.allow, served.catalogue.num_items)
        key = (served, request.allow, request.sold_out, self.recommender.key(query))
        pending = Pending()
        pending.came = self._clock()
        expires = pending.came + deadline_s
        waiting = Waiting(request, query, num, unknown, served, stock, key, expires, pending)
        with self._changed:
            pending.expected_s = self._check(self._queue.ahead(key), deadline_s)
            self._queue.push(waiting)
            # Whoever wakes takes the interpreter from a search: only where there is work.
            if self._max_wait_s or self._may_begin():
                self._changed.notify_all()
        return pending

    def _check(self, ahead: int, deadline_s: float) -> float:
        if self._draining:
            raise RefusedError("draining", "the server is going down", 1.0)
        return self._admission.check(len(self._queue), ahead, self.num_flying, deadline_s)

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
            left = self._queue.clear()
            self._changed.notify_all()
        for waiting in left:
            if waiting.pending.set_running_or_notify_cancel():
                error = RefusedError("draining", "the server is going down", 1.0)
                waiting.pending.set_exception(error)
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

    def _next_tile(self) -> list[Waiting]:
        """Takes the query that has waited longest and those of its key; the lock is held."""
        first, size = self._queue.first(), self.recommender.tile
        if self._max_wait_s:
            begin = first.pending.came + self._max_wait_s
            while (
                self._queue.count(first.key) < size
                and (left := begin - self._clock()) > 0
                and not self._draining
            ):
                self._changed.wait(left)
        tile: list[Waiting] = []
        now = self._clock()
        while len(tile) < size and (waiting := self._queue.pop(first.key)) is not None:
            if not waiting.pending.set_running_or_notify_cancel():
                # A client hears of its deadline by itself, and wants no answer then.
                self._observer.refused("late" if waiting.expires <= now else "gone")
            elif waiting.expires > now:
                tile.append(waiting)
                continue
            else:
                self._end_late(waiting)
            if waiting.expires <= now:  # It would have been answered so late.
                came, latency_s = waiting.pending.came, self._admission.latency_s
                self._admission.told(waiting.pending.expected_s, now - came + latency_s)
        return tile

    def _end_late(self, waiting: Waiting) -> None:
        self._observer.refused("late")
        waiting.pending.set_exception(LateError("the deadline passed before the answer"))

    def _begin(self, tile: list[Waiting]) -> _Flying | None:
        started, first = self._clock(), tile[0]
        try:
            allowed, stock_number = first.stock.now()
            catalogue = first.served.catalogue
            allowed = catalogue.listed if first.request.sold_out else allowed & catalogue.listed
            if first.request.allow:
                rules = first.request.allow
                allowed = allowed & catalogue.columns.mask(rules, catalogue.num_items)
            queries = [waiting.query for waiting in tile]
            wait = self.recommender.start(first.served, queries, allowed)
        except Exception:
            self._fail(tile)
            return None
        return _Flying(tile, wait, stock_number, started)

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

    def _answer(self, waiting: Waiting, found: Found, flying: _Flying, now: float) -> None:
        if waiting.expires <= now:
            self._end_late(waiting)
            self._admission.told(waiting.pending.expected_s, now - waiting.pending.came)
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
            queued_s=flying.started - waiting.pending.came,
            searched_s=now - flying.started,
        )
        self._observer.answered(answer, now - waiting.pending.came)
        waiting.pending.set_result(answer)

    def _fail(self, tile: Sequence[Waiting]) -> None:
        failure_id = uuid.uuid4().hex[:12]
        _LOG.exception("search %s failed", failure_id)
        for waiting in tile:
            self._observer.refused("failed")
            waiting.pending.set_exception(SearchFailedError(failure_id))
