"""How an HTTP request is read, and how its answer or its refusal is written."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope

from minirec.serving.answers import to_json
from minirec.serving.messages import (
    ErrorAnswer,
    ErrorBody,
    RecommendAnswer,
)
from minirec.serving.refusals import BadRequestError, LateError, RefusedError, SearchFailedError
from minirec.serving.service import MAX_BODY, new_request_id

BODY_S = 10.0
"""Seconds in which a request's body must have come."""

_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_FIELD = re.compile(r" - at `\$\.?(.*)`$")
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
    "replica_lost": 503,
    "overloaded": 429,
    "queue_full": 429,
    "unavailable": 503,
}


class Logs(Protocol):
    """Writes lines about requests."""

    @property
    def log_histories(self) -> bool:
        """Whether the lines show what was asked with."""
        ...

    def log(self, request_id: str, route: str, status: int, started: float, **more: Any) -> None:
        """Writes one; see `minirec.serving.service.log_request`."""
        ...


class HttpError(Exception):
    """A refusal that HTTP alone knows.

    Attributes:
        reason: what bodies call it; it has a status.
        field: where in the request the mistake is; "" where nowhere.
    """

    def __init__(self, reason: str, message: str, field: str = ""):
        super().__init__(message)
        self.reason, self.field = reason, field


def starlette_of(routes: Sequence[Route]) -> Starlette:
    """Returns an application of routes, whose errors are JSON as those of the routes are."""

    async def no_route(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        reason = "not_found" if status == 404 else "method_not_allowed"
        headers = dict(getattr(error, "headers", None) or {})
        body = ErrorBody(reason, f"{request.method} {request.url.path}: no such route", "")
        return error_response(status, body, headers)

    return Starlette(routes=routes, exception_handlers={404: no_route, 405: no_route})


async def answered(
    service: Logs, request: Request, work: Callable[[str], Awaitable[msgspec.Struct]]
) -> Response:
    """Returns what `work` answers as JSON, or its error as what that is over HTTP."""
    given = request.headers.get("x-request-id", "")
    try:
        status, headers, body = await outcome(service, request.url.path, given, work)
    except ClientDisconnect:
        return Response(status_code=499)  # Nobody is there to read it.
    return Response(body, status, headers)


async def outcome(
    service: Logs,
    route: str,
    given_id: str,
    work: Callable[[str], Awaitable[msgspec.Struct]],
) -> tuple[int, dict[str, str], bytes]:
    """Returns status, headers and body of what `work` answers, and writes a line about it."""
    started, request_id = time.perf_counter(), id_of(given_id)
    message: msgspec.Struct | Exception
    try:
        message = await work(request_id)
    except (ClientDisconnect, asyncio.CancelledError):
        service.log(request_id, route, 499, started)
        raise
    except Exception as error:
        message = error
    return reply(service, route, request_id, started, message)


def id_of(given: str) -> str:
    """Returns what names a request: what the client gave, where that can be, or a new one."""
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()


def reply(
    service: Logs,
    route: str,
    request_id: str,
    started: float,
    message: msgspec.Struct | Exception,
) -> tuple[int, dict[str, str], bytes]:
    """Returns status, headers and body of an answer or of an error, and writes a line about it."""
    headers = {"content-type": "application/json", "x-request-id": request_id}
    more: dict[str, Any] = {}
    if isinstance(message, Exception):
        status, why, its = told(message, request_id)
        headers |= its
        body = to_json(ErrorAnswer(why))
        more = {"reason": why.reason}
    else:
        status, body = 200, to_json(message)
        if isinstance(message, RecommendAnswer):
            more = {
                "items": len(message.items),
                "rank_by": message.rank_by,
                "catalogue": message.catalogue_version,
            }
            if service.log_histories:
                more["answered"] = [item.item_id for item in message.items]
    headers["content-length"] = str(len(body))
    service.log(request_id, route, status, started, **more)
    return status, headers, body


def told(error: Exception, request_id: str) -> tuple[int, ErrorBody, Mapping[str, str]]:
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
    elif isinstance(error, HttpError):
        reason, field = error.reason, error.field
    elif isinstance(error, SearchFailedError):
        reason = "failed"
    else:
        logging.getLogger(__name__).error("request %s failed", request_id, exc_info=error)
        error = SearchFailedError(request_id)
        reason = "failed"
    body = ErrorBody(reason, str(error), request_id)
    if field:
        body.field = field
    return _STATUS[reason], body, headers


def number_of(request: Request, name: str, default: int, most: int) -> int:
    """Returns a whole number of the query, or its default.

    Raises:
        BadRequestError: it lies outside of 1 to `most`.
    """
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= most or len(text) > 9:
        raise BadRequestError(name, f"{text!r}; must be a whole number in [1, {most}]")
    return int(text)


def error_response(
    status: int, body: ErrorBody, headers: Mapping[str, str] | None = None
) -> Response:
    """Returns an error as JSON."""
    return Response(to_json(ErrorAnswer(body)), status, dict(headers or {}), "application/json")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Returns a request's body.

    Raises:
        HttpError: it is too large, or does not come.
        ClientDisconnect: the client has hung up.
    """
    announced = next((v for name, v in scope["headers"] if name == b"content-length"), b"0")
    if announced.isdigit() and int(announced) > MAX_BODY:
        size = announced.decode()
        raise HttpError("too_large", f"the body has {size} bytes; at most {MAX_BODY}")
    body = b""
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    raise HttpError("too_large", f"the body has more than {MAX_BODY} bytes")
                if not message.get("more_body", False):
                    return body
    except TimeoutError as error:
        raise HttpError("timeout", f"the body did not come within {BODY_S:g} s") from error


async def unless_gone[Result](receive: Receive, work: Awaitable[Result]) -> Result:
    """Returns what `work` does; where the client hangs up first, it is cancelled.

    Raises:
        ClientDisconnect: the client has hung up.
    """
    task = asyncio.ensure_future(work)
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
