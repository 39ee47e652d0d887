"""The engine over HTTP: what clients ask for, and, on an address of its own, what admins change."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hmac
import json
import logging
import math
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from minirec.serving.answers import catalogue_item, to_json, to_message
from minirec.serving.catalogue import Catalogue, Stock
from minirec.serving.engine import Engine
from minirec.serving.engine import Request as Asked
from minirec.serving.messages import (
    BatchAnswer,
    BatchEntry,
    BatchRequest,
    CatalogueChange,
    ErrorAnswer,
    ErrorBody,
    ItemsAnswer,
    ModelChange,
    RecommendAnswer,
    RecommendRequest,
    SimilarAnswer,
    SimilarItem,
    Status,
    StockChange,
    VersionAnswer,
    read_message,
)
from minirec.serving.metrics import CONTENT_TYPE, Metrics
from minirec.serving.openapi import admin_openapi, openapi
from minirec.serving.recommender import Served
from minirec.serving.refusals import BadRequestError, LateError, RefusedError, SearchFailedError
from minirec.serving.rules import parse_rules
from minirec.serving.slow_clients import HANG_UP
from minirec.serving.versions import Change, Versions

MAX_BODY = 256 * 1024
"""Bytes of a request's body at most."""

BODY_S = 10.0
"""Seconds in which a request's body must have come."""

PAGE = Path(__file__).parent / "page"
SIMILAR = ("text", "follows", "table", "sid")

_RECOMMEND = "/v1/recommend"
_LOG = logging.getLogger("minirec.serving.requests")
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_FIELD = re.compile(r" - at `\$\.?(.*)`$")
_MOST_FOUND = 100
_STATUS = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "too_large": 413,
    "timeout": 408,
    "unprocessable": 422,
    "failed": 500,
    "cannot_write": 507,
    "late": 504,
    "draining": 503,
    "overloaded": 429,
    "queue_full": 429,
}
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Service:
    """What HTTP and gRPC both speak for.

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

    async def answer(self, message: RecommendRequest, request_id: str) -> RecommendAnswer:
        """Returns the answer to a message.

        Raises:
            BadRequestError: and the other refusals.
        """
        asked = self.asked(message)
        deadline_s = self.engine.deadline_s if asked.deadline_s is None else asked.deadline_s
        try:
            # The engine looks at deadlines between tiles; a client hears of its own in time.
            answering = asyncio.wrap_future(self.engine.submit(asked))
            answer = await asyncio.wait_for(answering, deadline_s)
        except TimeoutError as error:
            raise LateError("the deadline passed before the answer") from error
        return to_message(answer, request_id, history=asked.history)

    def log(self, request_id: str, route: str, status: int, started: float, **more: Any) -> None:
        """Writes a line about a request."""
        if _LOG.isEnabledFor(logging.INFO):
            line = {
                "request_id": request_id,
                "route": route,
                "status": status,
                "ms": round(1e3 * (time.perf_counter() - started), 3),
                **more,
            }
            _LOG.info(json.dumps(line))


def application(service: Service) -> ASGIApp:
    """Returns what clients may ask: `/v1`, health, metrics, and the page.

    What is asked most goes its own short way: a framework's layers would take as long as a search.
    """
    rest = _application(service)

    async def recommend(request_id: str, scope: Scope, receive: Receive) -> msgspec.Struct:
        service.engine.check_room()  # In a flood, reading a body costs too much.
        message = read_message(RecommendRequest, await read_body(scope, receive))
        return await _unless_gone(scope, receive, service.answer(message, request_id))

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _RECOMMEND or scope["method"] != "POST":
            await rest(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        work = functools.partial(recommend, scope=scope, receive=receive)
        name = given.decode("latin-1")
        try:
            status, headers, body = await _outcome(service, _RECOMMEND, name, work)
        except ClientDisconnect:
            return  # Nobody is there to be told.
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return application


def _application(service: Service) -> Starlette:

    async def recommend_batch(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            batch = read_message(BatchRequest, await read_body(request.scope, request.receive))

            async def one(place: int, message: RecommendRequest) -> BatchEntry:
                name = f"{request_id}.{place}"
                try:
                    return BatchEntry(answer=await service.answer(message, name))
                except Exception as error:
                    return BatchEntry(error=_told(error, name)[1])

            work_on = _together(one, batch.requests)
            return await _unless_gone(request.scope, request.receive, work_on)

        return await _answered(service, request, work)

    async def find_items(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            text = request.query_params.get("q", "")
            num = _number(request, "num", 20, _MOST_FOUND)
            served, stock = service.engine.now()
            catalogue, (in_stock, _) = served.catalogue, stock.now()
            found = await asyncio.to_thread(lambda: catalogue.index.find(text, num))
            items = [
                catalogue_item(catalogue, item, in_stock=bool(in_stock[item])) for item in found
            ]
            return ItemsAnswer(items, _catalogue_version(served, stock))

        return await _answered(service, request, work)

    async def one_item(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            served, stock = service.engine.now()
            catalogue, (in_stock, _) = served.catalogue, stock.now()
            item = _item(catalogue, request.path_params["item_id"])
            return catalogue_item(catalogue, item, in_stock=bool(in_stock[item]))

        return await _answered(service, request, work)

    async def similar(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            served, stock = service.engine.now()
            item = _item(served.catalogue, request.path_params["item_id"])
            by = request.query_params.get("by", SIMILAR[0])
            num = _number(request, "num", 10, _MOST_FOUND)
            found = await asyncio.to_thread(_similar, served, stock, item, by, num)
            return SimilarAnswer(found, by, _catalogue_version(served, stock))

        return await _answered(service, request, work)

    async def status(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            return _status(service)

        return await _answered(service, request, work)

    async def healthy(request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def ready(request: Request) -> Response:
        draining = service.engine.is_draining
        text = "draining\n" if draining else "ready\n"
        return Response(text, 503 if draining else 200, media_type="text/plain")

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        path = PAGE / name
        if path.name != name or not path.is_file():
            return _error(404, ErrorBody("not_found", f"no page {name!r}", ""))
        # A shop's titles are data; nothing on the page comes from elsewhere.
        policy = "default-src 'self'; img-src 'self' data:"
        headers = {"content-security-policy": policy, "cache-control": "no-cache"}
        return FileResponse(path, media_type=_TYPES.get(path.suffix), headers=headers)

    document = json.dumps(openapi()).encode()

    async def described(request: Request) -> Response:
        return Response(document, media_type="application/json")

    return _starlette(
        [
            Route(_RECOMMEND, _only_post, methods=["POST"]),
            Route("/v1/recommend:batch", recommend_batch, methods=["POST"]),
            Route("/v1/items", find_items),
            Route("/v1/items/{item_id:path}", one_item),
            Route("/v1/similar/{item_id:path}", similar),
            Route("/v1/status", status),
            Route("/healthz", healthy),
            Route("/readyz", ready),
            Route("/metrics", metrics),
            Route("/openapi.json", described),
            Route("/", page),
            Route("/page/{name}", page),
        ]
    )


def admin_application(service: Service, token: str | None) -> Starlette:
    """Returns what admins may ask: changes of catalogue, stock and model.

    Args:
        service: whose.
        token: what every request's `Authorization: Bearer …` must say; None: nothing.
    """

    def guarded(change: Callable[[bytes], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            async def work(request_id: str) -> msgspec.Struct:
                _refuse_pages(request, needs_loopback=token is None)
                given = request.headers.get("authorization", "")
                if token is not None and not hmac.compare_digest(
                    given.encode(), f"Bearer {token}".encode()
                ):
                    raise _HttpError("unauthorized", "authorization: needs the admin's token")
                body = await read_body(request.scope, request.receive)
                try:
                    await asyncio.to_thread(change, body)
                except msgspec.MsgspecError:
                    raise
                except ValueError as error:
                    raise _HttpError("unprocessable", str(error)) from error
                except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
                    raise _HttpError("unprocessable", f"nothing was changed: {error}") from error
                except OSError as error:
                    what = f"nothing was changed: {error.strerror or error}"
                    raise _HttpError("cannot_write", what) from error
                served, stock = service.engine.now()
                return VersionAnswer(
                    served.model_version,
                    _catalogue_version(served, stock),
                    int(served.catalogue.listed.sum()),
                )

            return await _answered(service, request, work)

        return endpoint

    def change_catalogue(body: bytes) -> None:
        change = read_message(CatalogueChange, body)
        service.versions.change(
            Change(change.sids, change.titles, change.appended, change.withdraw, change.restore)
        )

    def change_stock(body: bytes) -> None:
        change = read_message(StockChange, body)
        service.versions.change_stock(change.out, change.back)

    def change_model(body: bytes) -> None:
        served = service.versions.change_model(read_message(ModelChange, body or b"{}").run)
        service.metrics.model_changed(served.model_version)

    document = json.dumps(admin_openapi()).encode()

    async def described(request: Request) -> Response:
        return Response(document, media_type="application/json")

    return _starlette(
        [
            Route("/admin/catalogue", guarded(change_catalogue), methods=["POST"]),
            Route(
                "/admin/catalogue/rollback",
                guarded(lambda body: service.versions.rollback()),
                methods=["POST"],
            ),
            Route("/admin/stock", guarded(change_stock), methods=["POST"]),
            Route("/admin/model", guarded(change_model), methods=["POST"]),
            Route("/openapi.json", described),
        ]
    )


def _refuse_pages(request: Request, *, needs_loopback: bool) -> None:
    """Refuses what a page in an admin's browser asks: it would come from this machine, too.

    Raises:
        _HttpError: a browser asks, or, without a token, by a name that is not this machine's.
    """
    headers = request.headers
    if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
        raise _HttpError("forbidden", "pages in a browser may not ask this")
    host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
    if needs_loopback and not is_loopback(host.strip("[]")):
        raise _HttpError("forbidden", f"host: {host!r} is not this machine, and there is no token")


def is_loopback(host: str) -> bool:
    """Returns whether a host is the machine itself."""
    return host in ("localhost", "::1") or host.startswith("127.")


class _HttpError(Exception):
    def __init__(self, reason: str, message: str, field: str = ""):
        super().__init__(message)
        self.reason, self.field = reason, field


def _starlette(routes: Sequence[Route]) -> Starlette:
    async def no_route(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        reason = "not_found" if status == 404 else "method_not_allowed"
        headers = dict(getattr(error, "headers", None) or {})
        body = ErrorBody(reason, f"{request.method} {request.url.path}: no such route", "")
        return _error(status, body, headers)

    return Starlette(routes=routes, exception_handlers={404: no_route, 405: no_route})


async def _only_post(request: Request) -> Response:
    """Stands for the route that `application` answers by itself."""
    raise AssertionError(request.url.path)


async def _answered(
    service: Service, request: Request, work: Callable[[str], Awaitable[msgspec.Struct]]
) -> Response:
    """Returns what `work` answers as JSON, or its error as what that is over HTTP."""
    given = request.headers.get("x-request-id", "")
    try:
        status, headers, body = await _outcome(service, request.url.path, given, work)
    except ClientDisconnect:
        return Response(status_code=499)  # Nobody is there to read it.
    return Response(body, status, headers)


async def _outcome(
    service: Service,
    route: str,
    given_id: str,
    work: Callable[[str], Awaitable[msgspec.Struct]],
) -> tuple[int, dict[str, str], bytes]:
    """Returns status, headers and body of what `work` answers, and writes a line about it."""
    started = time.perf_counter()
    request_id = given_id if _REQUEST_ID.fullmatch(given_id) else new_request_id()
    headers = {"content-type": "application/json", "x-request-id": request_id}
    more: dict[str, Any] = {}
    try:
        message = await work(request_id)
        status, body = 200, to_json(message)
        if isinstance(message, RecommendAnswer):
            more = {
                "items": len(message.items),
                "rank_by": message.rank_by,
                "catalogue": message.catalogue_version,
            }
            if service.log_histories:
                more["answered"] = [item.item_id for item in message.items]
    except (ClientDisconnect, asyncio.CancelledError):
        service.log(request_id, route, 499, started)
        raise
    except Exception as error:
        status, told, its = _told(error, request_id)
        headers |= its
        body = to_json(ErrorAnswer(told))
        more = {"reason": told.reason}
    headers["content-length"] = str(len(body))
    service.log(request_id, route, status, started, **more)
    return status, headers, body


def _told(error: Exception, request_id: str) -> tuple[int, ErrorBody, Mapping[str, str]]:
    """Returns status, body and headers that say what went wrong."""
    headers: dict[str, str] = {}
    field: str = ""
    if isinstance(error, BadRequestError):
        reason, field = "bad_request", error.field
    elif isinstance(error, msgspec.MsgspecError):
        reason = "bad_request"
        if found := _FIELD.search(str(error)):
            field = found[1]
    elif isinstance(error, RefusedError):
        reason = error.reason
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    elif isinstance(error, LateError):
        reason = "late"
    elif isinstance(error, _HttpError):
        reason, field = error.reason, error.field
    elif isinstance(error, SearchFailedError):
        reason = "failed"
    else:
        logging.getLogger(__name__).exception("request %s failed", request_id)
        error = SearchFailedError(request_id)
        reason = "failed"
    body = ErrorBody(reason, str(error), request_id)
    if field:
        body.field = field
    return _STATUS[reason], body, headers


def _error(status: int, body: ErrorBody, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(ErrorAnswer(body)), status, dict(headers or {}), "application/json")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Returns a request's body.

    Raises:
        _HttpError: it is too large, or does not come.
        ClientDisconnect: the client has hung up.
    """
    announced = next((v for name, v in scope["headers"] if name == b"content-length"), b"0")
    if announced.isdigit() and int(announced) > MAX_BODY:
        size = announced.decode()
        raise _HttpError("too_large", f"the body has {size} bytes; at most {MAX_BODY}")
    body = b""
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    raise _HttpError("too_large", f"the body has more than {MAX_BODY} bytes")
                if not message.get("more_body", False):
                    return body
    except TimeoutError as error:
        raise _HttpError("timeout", f"the body did not come within {BODY_S:g} s") from error


async def _unless_gone[Result](scope: Scope, receive: Receive, work: Awaitable[Result]) -> Result:
    """Returns what `work` does; where the client hangs up first, it is cancelled.

    Raises:
        ClientDisconnect: the client has hung up.
    """
    task = asyncio.ensure_future(work)
    hang_up = scope.get(HANG_UP)
    if hang_up is not None:  # Our own protocol calls when the connection is lost.
        hang_up.append(task.cancel)
        try:
            return await task
        except asyncio.CancelledError as error:
            raise ClientDisconnect from error
        finally:
            hang_up.clear()
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for one in (task, gone):
            if not one.done():
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await one


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def new_request_id() -> str:
    """Returns an id that no other request has."""
    return os.urandom(16).hex()


async def _together(
    one: Callable[[int, RecommendRequest], Awaitable[BatchEntry]],
    requests: Sequence[RecommendRequest],
) -> BatchAnswer:
    answers = [one(place, message) for place, message in enumerate(requests)]
    return BatchAnswer(list(await asyncio.gather(*answers)))


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= most or len(text) > 9:
        raise BadRequestError(name, f"{text!r}; must be a whole number in [1, {most}]")
    return int(text)


def _item(catalogue: Catalogue, raw: str) -> int:
    item = catalogue.item_of.get(raw)
    if item is None:
        raise _HttpError("not_found", f"the catalogue has no item {raw!r}", "item_id")
    return item


def _catalogue_version(served: Served, stock: Stock) -> str:
    return f"{served.catalogue.number}.{stock.number}"


def _similar(served: Served, stock: Stock, item: int, by: str, num: int) -> list[SimilarItem]:
    """Returns the items that are most like another; those that are listed and in stock alone."""
    if by not in SIMILAR:
        raise BadRequestError("by", f"{by!r}; must be one of {', '.join(SIMILAR)}")
    catalogue, ranker = served.catalogue, served.ranker
    items, scores = np.zeros(0, np.int64), np.zeros(0)
    is_known = item < len(ranker.train_count)
    if by == "text" and ranker.neighbours is not None and is_known:
        start, stop = ranker.neighbours.offsets[item : item + 2]
        items, scores = ranker.neighbours.item[start:stop], ranker.neighbours.cosine[start:stop]
    elif by == "follows" and is_known:
        rows = ranker.transition.transitions
        start, stop = rows.indptr[item : item + 2]
        items, scores = rows.indices[start:stop], rows.data[start:stop]
    elif by == "table" and is_known and (vectors := served.item_vectors) is not None:
        items, scores = np.arange(len(vectors)), vectors @ vectors[item]
    elif by == "sid":  # How many codes are the same, from the first one on.
        same = np.cumprod(catalogue.codes == catalogue.codes[item], axis=1).sum(axis=1)
        items = np.flatnonzero(same)
        scores = same[items] / catalogue.codes.shape[1]
    in_stock, _ = stock.now()
    wanted = (catalogue.listed & in_stock)[items] & (items != item)
    items, scores = items[wanted], np.asarray(scores, np.float64)[wanted]
    best = np.lexsort((items, -scores))[:num]
    return [
        SimilarItem(
            catalogue.raw_item_ids[int(items[place])],
            catalogue.titles[int(items[place])],
            round(float(scores[place]), 6),
            rank,
        )
        for rank, place in enumerate(best)
    ]


def _status(service: Service) -> Status:
    engine = service.engine
    (served, stock), cache = engine.now(), engine.recommender.cache
    catalogue = served.catalogue
    return Status(
        ready=not engine.is_draining,
        draining=engine.is_draining,
        model_version=served.model_version,
        catalogue_version=_catalogue_version(served, stock),
        num_items=catalogue.num_items,
        num_listed=int(catalogue.listed.sum()),
        rank_by=list(served.rankings),
        num_beams=engine.recommender.programs.num_beams,
        tile=engine.recommender.tile,
        columns=list(catalogue.columns.names),
        exclude_seen=engine.exclude_seen,
        waiting=engine.num_waiting,
        tiles_in_flight=engine.num_flying,
        tile_seconds=round(engine.admission.latency_s, 6),
        compilations=engine.recommender.programs.num_traces,
        cache={
            "entries": len(cache),
            "bytes": cache.num_bytes,
            "hits": cache.hits,
            "misses": cache.misses,
        },
    )
