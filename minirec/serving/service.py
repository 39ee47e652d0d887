"""What HTTP and gRPC both speak for: the engine, and what a message asks of it."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec

from minirec.serving.answers import to_message
from minirec.serving.catalogue import Stock
from minirec.serving.engine import Engine
from minirec.serving.messages import (
    RecommendAnswer,
    RecommendRequest,
)
from minirec.serving.metrics import Metrics
from minirec.serving.recommender import Served
from minirec.serving.refusals import BadRequestError, LateError
from minirec.serving.request import Answer, Pending
from minirec.serving.request import Request as Asked
from minirec.serving.rules import parse_rules
from minirec.serving.versions import Versions

MAX_BODY = 256 * 1024
"""Bytes of a request's body at most."""


_LOG = logging.getLogger("minirec.serving.requests")


class Answerer(abc.ABC):
    """What HTTP and gRPC need of what answers, wherever that is."""

    @property
    @abc.abstractmethod
    def log_histories(self) -> bool:
        """Whether the log lines of requests show what was recommended."""

    @abc.abstractmethod
    def ask(
        self,
        message: RecommendRequest,
        request_id: str,
        tell: Callable[[RecommendAnswer | Exception], None],
        at: Any = None,
    ) -> Callable[[], None]:
        """Asks, and returns what withdraws the question; a running event loop is needed.

        Args:
            message: what is asked.
            request_id: names the request.
            tell: called once in the event loop, by the request's deadline, unless it is withdrawn.
            at: what `now` returned, which then answers; None: what is served now.

        Raises:
            BadRequestError: and the other refusals.
        """

    @abc.abstractmethod
    def now(self) -> Any:
        """Returns the version that is served, so that several questions get answers of one."""

    @abc.abstractmethod
    def drain(self, timeout_s: float) -> bool:
        """Takes nobody on any more and waits until all are answered; returns whether they are."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends what answers."""

    async def answer(
        self, message: RecommendRequest, request_id: str, at: Any = None
    ) -> RecommendAnswer:
        """Returns the answer to a message; see `ask`.

        Raises:
            BadRequestError: and the other refusals.
        """
        told: asyncio.Future[RecommendAnswer] = asyncio.get_running_loop().create_future()

        def tell(answer: RecommendAnswer | Exception) -> None:
            if told.done():  # Whoever waited has been cancelled just now.
                return
            if isinstance(answer, Exception):
                told.set_exception(answer)
            else:
                told.set_result(answer)

        withdraw = self.ask(message, request_id, tell, at)
        try:
            return await told
        finally:
            withdraw()

    def log(self, request_id: str, route: str, status: int, started: float, **more: Any) -> None:
        """Writes a line about a request."""
        log_request(request_id, route, status, started, **more)


@dataclasses.dataclass(frozen=True, eq=False)
class Service(Answerer):
    """An engine of this process, as HTTP and gRPC speak for it.

    Attributes:
        engine: answers.
        versions: of its catalogue.
        metrics: hear of it.
        histories: the raw ids of a user of the log, oldest first; None where there is no such user.
        log_histories: whether the log lines of requests show what was asked with.
    """

    engine: Engine
    versions: Versions
    metrics: Metrics
    histories: Callable[[str], Sequence[str] | None]
    log_histories: bool = False

    def asked(self, message: RecommendRequest) -> Asked:
        """Returns the engine's request of a message.

        Raises:
            BadRequestError: a field says what cannot be.
        """
        history: Sequence[str] = message.history
        if message.user is not None:
            if message.history:
                raise BadRequestError("user", "give a user or a history, not both")
            found = self.histories(message.user)
            if found is None:
                raise BadRequestError("user", f"the log has no user {message.user!r}")
            history = found
        rules = ()
        if message.allow:
            rules = parse_rules([msgspec.structs.asdict(rule) for rule in message.allow])
        deadline = message.deadline_ms
        return Asked(
            history=history,
            num=message.num,
            exclude=message.exclude,
            allow=rules,
            rank_by=message.rank_by,
            exclude_seen=message.exclude_seen,
            sold_out=message.sold_out,
            # A user's history may hold what a version of the catalogue has dropped.
            skip_unknown=message.unknown == "skip" or message.user is not None,
            explain=message.explain,
            deadline_s=None if deadline is None else deadline / 1e3,
        )

    def ask(
        self,
        message: RecommendRequest,
        request_id: str,
        tell: Callable[[RecommendAnswer | Exception], None],
        at: Any = None,
    ) -> Callable[[], None]:
        """Asks the engine; see `Answerer`."""
        deadline = message.deadline_ms
        deadline_s = self.engine.deadline_s if deadline is None else deadline / 1e3
        if deadline_s > 0:  # In a flood most go here, before more of them is read.
            self.engine.admit(deadline_s)
        asked = self.asked(message)

        def told(answer: Answer | Exception) -> None:
            if isinstance(answer, Exception):
                tell(answer)
                return
            try:
                message = to_message(answer, request_id, history=asked.history)
            except Exception as error:
                tell(error)
            else:
                tell(message)

        return _Question(self.engine, self.engine.submit(asked, at), deadline_s, told).withdraw

    def now(self) -> tuple[Served, Stock]:
        """Returns what the engine serves."""
        return self.engine.now()

    def drain(self, timeout_s: float) -> bool:
        """Drains the engine."""
        return self.engine.drain(timeout_s)

    def close(self) -> None:
        """Ends the engine's threads."""
        self.engine.close()


class _Question:
    """What has been asked of the engine; whoever asked is told once, in the event loop."""

    def __init__(
        self,
        engine: Engine,
        pending: Pending,
        deadline_s: float,
        tell: Callable[[Answer | Exception], None],
    ):
        self._engine, self._pending, self._tell = engine, pending, tell
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        # The engine looks at deadlines between tiles; a client hears of its own in time.
        self._timer = self._loop.call_later(deadline_s, self._too_late)
        pending.add_done_callback(self._done)

    def withdraw(self) -> None:
        """Wants no answer any more."""
        self._is_open = False
        self._timer.cancel()
        self._pending.cancel()

    def _done(self, pending: Future[Answer]) -> None:
        """Is called by the engine's threads."""
        if self._is_open:
            with contextlib.suppress(RuntimeError):  # The loop has ended before the engine.
                self._loop.call_soon_threadsafe(self._answered)

    def _answered(self) -> None:
        if self._is_open:
            error = self._pending.exception()
            self._end(self._pending.result() if error is None else error)

    def _too_late(self) -> None:
        if self._is_open:
            self._end(LateError("the deadline passed before the answer"))

    def _end(self, answer: Any) -> None:
        self.withdraw()
        if isinstance(answer, Answer):  # How late another one is the engine will see.
            self._engine.told(self._pending)
        self._tell(answer)


def log_request(request_id: str, route: str, status: int, started: float, **more: Any) -> None:
    """Writes a line about a request.

    Args:
        request_id: names the request.
        route: of HTTP, or the service of gRPC.
        status: of HTTP.
        started: when it came, by `time.perf_counter`.
        **more: what else the line says.
    """
    if _LOG.isEnabledFor(logging.INFO):
        line = {
            "request_id": request_id,
            "route": route,
            "status": status,
            "ms": round(1e3 * (time.perf_counter() - started), 3),
            **more,
        }
        _LOG.info(json.dumps(line))


_PROCESS, _NUMBER = os.urandom(8).hex(), itertools.count()


def new_request_id() -> str:
    """Returns an id that no other request has: drawn for this process, and counted."""
    return f"{_PROCESS}{next(_NUMBER):016x}"
