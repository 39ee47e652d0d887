"""What clients and admins come to where several replicas answer: the same routes, no model."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from minirec.serving.admin import admin_application_of
from minirec.serving.fleet import Fleet, key_of
from minirec.serving.http import application_with
from minirec.serving.messages import (
    RecommendAnswer,
    RecommendRequest,
    Status,
    VersionAnswer,
)
from minirec.serving.metrics import CONTENT_TYPE
from minirec.serving.refusals import LateError, RefusedError
from minirec.serving.replies import answered, error_response, id_of, told
from minirec.serving.service import Answerer
from minirec.serving.versions import Change
from minirec.serving.wire import Pin

_SUMMED = ("waiting", "tiles_in_flight", "compilations")
_PROMETHEUS_S = 10.0  # What Prometheus itself waits for an answer.


class Front(Answerer):
    """Answers by asking replicas.

    Attributes:
        fleet: the replicas.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        deadline_s: float,
        close: Callable[[], None] = lambda: None,
        log_histories: bool = False,
    ):
        """Begins to answer; a running event loop is needed, in which everything is asked.

        Args:
            fleet: the replicas.
            deadline_s: seconds in which an answer must be there where a request does not say.
            close: ends the replicas.
            log_histories: whether the log lines of requests show what was recommended.
        """
        self.fleet, self._deadline_s, self._close = fleet, deadline_s, close
        self._log_histories = log_histories
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = threading.Event()
        self._idle.set()
        self._draining = False

    @property
    def log_histories(self) -> bool:
        """Whether the log lines of requests show what was recommended."""
        return self._log_histories

    @property
    def is_draining(self) -> bool:
        """Whether nobody is taken on any more."""
        return self._draining

    @property
    def num_asked(self) -> int:
        """Requests that wait for a replica's answer."""
        return len(self._tasks)

    def now(self) -> Pin:
        """Returns what requests that come now are answered with."""
        return self.fleet.pin

    def ask(
        self,
        message: RecommendRequest,
        request_id: str,
        tell: Callable[[RecommendAnswer | Exception], None],
        at: Any = None,
    ) -> Callable[[], None]:
        """Asks a replica, see `Answerer`; the deadline is the front's, whatever a replica does."""
        if self._draining:
            raise RefusedError("draining", "the server is going down", 1.0)
        deadline = message.deadline_ms
        deadline_s = self._deadline_s if deadline is None else deadline / 1e3
        expires = time.monotonic() + deadline_s
        pin = at or self.now()

        def args() -> tuple[Pin, bytes, str]:
            left_ms = 1e3 * (expires - time.monotonic())
            if left_ms <= 0:
                raise LateError("the deadline passed before the answer")
            asked = msgspec.structs.replace(message, deadline_ms=left_ms)
            return pin, msgspec.json.encode(asked), request_id

        async def work() -> None:
            answer: RecommendAnswer | Exception
            try:
                async with asyncio.timeout(deadline_s):
                    key = key_of(message, request_id)
                    body = await self.fleet.ask_with(key, "recommend", args)
                answer = msgspec.json.decode(body, type=RecommendAnswer)
            except TimeoutError:
                answer = LateError("the deadline passed before the answer")
            except Exception as error:
                answer = error
            tell(answer)

        task = self._loop.create_task(work())
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._ended)
        return functools.partial(_withdraw, task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()

    def drain(self, timeout_s: float) -> bool:
        """Takes nobody on any more and waits until all are answered; returns whether they are."""
        self._draining = True
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        """Ends the replicas."""
        self._close()

    def wait_for[Result](self, work: Coroutine[Any, Any, Result]) -> Result:
        """Returns what the event loop does, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def status(self) -> Status:
        """Returns what is served, and the replicas' counts together."""
        statuses = [
            msgspec.json.decode(body, type=Status) for body in await self.fleet.every("status")
        ]
        if not statuses:
            raise RefusedError("replica_lost", "no replica lives; ask again", 1.0)
        status = statuses[0]
        for name in _SUMMED:
            setattr(status, name, sum(getattr(one, name) for one in statuses))
        status.cache = {name: sum(one.cache[name] for one in statuses) for name in status.cache}
        status.tile_seconds = max(one.tile_seconds for one in statuses)
        status.draining, status.ready = self._draining, not self._draining
        answer = _version(self.fleet)
        status.model_version = answer.model_version
        status.catalogue_version = answer.catalogue_version
        status.num_listed, status.replicas = answer.num_listed, len(statuses)
        return status

    async def metrics(self) -> bytes:
        """Returns the replicas' metrics, each with the name of its replica, and the front's."""
        try:
            async with asyncio.timeout(_PROMETHEUS_S):
                given = await self.fleet.every("metrics")
        except (RefusedError, TimeoutError):
            given = []  # The front's own tell that none lives.
        families = [*_by_replica(given), *self._own(given)]
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Given(families))
        return generate_latest(registry)

    def _own(self, given: Sequence[tuple[str, int, str, str]]) -> list[Metric]:
        replicas = GaugeMetricFamily(
            "minirec_replica", "1 for each that lives.", labels=["replica", "process", "machine"]
        )
        for name, process, machine, _ in given:
            replicas.add_metric([name, str(process), machine], 1)
        fleet = self.fleet
        return [
            replicas,
            GaugeMetricFamily("minirec_front_asked", "Requests with a replica.", self.num_asked),
            CounterMetricFamily(
                "minirec_front_lost", "Calls whose replica ended before it answered.", fleet.lost
            ),
            CounterMetricFamily(
                "minirec_front_retried", "Those that were asked again.", fleet.retried
            ),
            CounterMetricFamily(
                "minirec_front_rolls", "Versions that have taken over.", fleet.rolls
            ),
        ]


def _withdraw(task: asyncio.Task[None]) -> None:
    task.cancel()


class _Given:
    """Metrics as Prometheus' client collects them."""

    def __init__(self, families: Sequence[Metric]):
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Returns them."""
        return self._families


def _by_replica(given: Sequence[tuple[str, int, str, str]]) -> Iterable[Metric]:
    families: dict[str, Metric] = {}
    for name, _, _, text in given:
        for family in text_string_to_metric_families(text):
            if family.name.endswith("_created"):
                continue
            known = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {**sample.labels, "replica": name}
                known.add_sample(sample.name, labels, sample.value)
    return families.values()


@dataclasses.dataclass(frozen=True)
class _Changes:
    """What admins may do: each from a thread of its own, done in the front's event loop."""

    front: Front

    def change(self, change: Change) -> object:
        return self.front.wait_for(self.front.fleet.change(change))

    def rollback(self) -> object:
        return self.front.wait_for(self.front.fleet.rollback())

    def change_stock(self, sold_out: Sequence[str], back: Sequence[str]) -> object:
        return self.front.wait_for(self.front.fleet.change_stock(sold_out, back))

    def change_model(self, run: str | None) -> object:
        return self.front.wait_for(self.front.fleet.change_model(run))

    def now(self) -> VersionAnswer:
        return _version(self.front.fleet)


def _version(fleet: Fleet) -> VersionAnswer:
    number, model_version = fleet.pin.release.key
    return VersionAnswer(model_version, f"{number}.{fleet.pin.stock}", fleet.num_listed)


def admins(front: Front, token: str | None) -> Starlette:
    """Returns what admins may ask; see `minirec.serving.admin.admin_application`."""
    return admin_application_of(front, _Changes(front), token)


def clients(front: Front) -> Starlette:
    """Returns what clients may ask; what needs no search any replica answers as by itself."""

    async def look_up(request: Request) -> Response:
        request_id = id_of(request.headers.get("x-request-id", ""))
        path, query = request.scope["path"], request.scope["query_string"]
        try:
            status, headers, body = await front.fleet.ask(
                f"look up {path}", "look_up", path, query, request_id
            )
        except Exception as error:
            status, why, more = told(error, request_id)
            return error_response(status, why, more)
        return Response(body, status, headers)

    async def status(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            return await front.status()

        return await answered(front, request, work)

    async def metrics(request: Request) -> Response:
        return Response(await front.metrics(), headers={"content-type": CONTENT_TYPE})

    return application_with(
        front,
        [
            Route("/v1/items", look_up),
            Route("/v1/items/{item_id:path}", look_up),
            Route("/v1/similar/{item_id:path}", look_up),
            Route("/v1/status", status),
            Route("/metrics", metrics),
        ],
        lambda: front.is_draining,
    )
