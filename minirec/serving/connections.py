"""HTTP connections: timers against half-sent requests, and a short way for what is asked most.

A framework's layers take as long as a search, and a flood of refusals would keep the searching
threads from the interpreter. So a plain `POST /v1/recommend` is read and answered here, without a
scope, a task or a parser's callbacks; whatever is less plain goes the usual way, to uvicorn.
"""

from __future__ import annotations

import asyncio
import functools
import http
import logging
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from minirec.serving.messages import RecommendRequest, read_message
from minirec.serving.replies import HttpError, id_of, reply
from minirec.serving.service import MAX_BODY, Answerer

RECOMMEND = "/v1/recommend"

_LOG = logging.getLogger(__name__)

HEADERS_S = 10.0
"""Seconds in which a request's headers must have come, and on the short way its body."""

_LINE = f"POST {RECOMMEND} HTTP/1.1\r\n".encode()
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")  # RFC 9110, in small letters
_SHORT = 1024  # bytes of headers that are remembered
_USUAL = frozenset((b"transfer-encoding", b"expect", b"upgrade"))  # Headers for the usual way.


class Door(Protocol):
    """What a server has behind its address."""

    @property
    def service(self) -> Answerer | None:
        """Answers `/v1/recommend`; None where that is not to be had, or not yet."""
        ...


class Head(NamedTuple):
    """What the headers of a plain request say.

    Attributes:
        size: bytes of headers and body.
        start: where the body begins.
        given_id: what the client calls its request.
    """

    size: int
    start: int
    given_id: str


def plain_head(data: bytes | bytearray) -> Head | None:
    """Returns what the headers of `POST /v1/recommend` say; None where they are not plain.

    Plain is HTTP/1.1 that stays open, headers that have come whole, and a body whose length is
    said once and may be.
    """
    if not data.startswith(_LINE):
        return None
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = bytes(data[len(_LINE) : end])
    # A client says the same again and again.
    found = (_known_headers if len(lines) <= _SHORT else _headers)(lines)
    if found is None:
        return None
    length, given_id = found
    return Head(end + 4 + length, end + 4, given_id)


def _headers(lines: bytes) -> tuple[int, str] | None:
    """Returns the body's length and what the client calls its request; None: not plain."""
    length, given_id = None, b""
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or not _NAME.fullmatch(name) or name in _USUAL:
            return None
        if b"\n" in value or b"\r" in value or b"\0" in value:
            return None  # Others may see another header there.
        if name == b"content-length":
            value = value.strip()
            if length is not None or not value.isdigit() or len(value) > 9:
                return None
            length = int(value)
        elif name == b"connection":
            if value.strip().lower() != b"keep-alive":
                return None
        elif name == b"x-request-id":
            given_id = value.strip()
    if length is None or length > MAX_BODY:
        return None
    return length, given_id.decode("latin-1")


_known_headers = functools.lru_cache(512)(_headers)


class _Asking(NamedTuple):
    """A plain request that waits for its answer."""

    service: Answerer
    request_id: str
    started: float
    withdraw: Callable[[], None]


def connections_of(door: Door, protocol: Any = None) -> type[asyncio.Protocol]:
    """Returns one of uvicorn's HTTP protocols, with the short way and a deadline for headers.

    Args:
        door: what answers.
        protocol: the protocol; None: the fastest that is there.
    """
    kinds: list[Any] = [] if protocol is None else [protocol]
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        kinds.append(HttpToolsProtocol)
    except ImportError:  # Slower, and the same.
        from uvicorn.protocols.http.h11_impl import H11Protocol

        kinds.append(H11Protocol)
    base = kinds[0]

    class Connection(base):
        """Closes a connection whose requests do not come, and answers plain ones itself."""

        headers_timer: asyncio.TimerHandle | None = None
        is_between = True  # Whether what comes next is the first byte of a request.
        is_busy = False  # With a plain request, until its answer is written.
        is_last = False  # Whether the connection ends with the answer.
        is_lost = False
        idle_since = 0.0
        asking: _Asking | None = None
        head: Head | None = None
        service: Answerer

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self.held = bytearray()  # What has come of a plain request, or after it.

        def connection_made(self, transport: Any) -> None:
            """Begins to wait."""
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            """Answers a plain request, and gives everything else to uvicorn."""
            if self.is_busy:
                self.held += data
                self.flow.pause_reading()
                return
            if self.head is not None:
                self.held += data
                if len(self.held) >= self.head.size:
                    self._answer(self.head)
                return
            is_idle = self.is_between and (self.cycle is None or self.cycle.response_complete)
            if is_idle and door.service is not None and self._has_room():
                self.head, self.service = plain_head(data), door.service
            if self.head is None:
                self._the_usual_way(data)
                return
            self.held += data
            if len(self.held) >= self.head.size:
                self._answer(self.head)
            else:  # From now on its body has its time.
                self._stop()
                self._wait()

        def on_message_begin(self) -> None:
            """Takes note that uvicorn reads a request."""
            self.is_between = False
            super().on_message_begin()

        def on_message_complete(self) -> None:
            """Takes note that it has read one, to its end."""
            self.is_between = True
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            """Forgets the timer, what was asked, and what would have been asked next."""
            self.is_lost, self.head = True, None
            self.held.clear()
            self._stop()
            if self.asking is not None:
                gone, self.asking = self.asking, None
                gone.withdraw()
                gone.service.log(gone.request_id, RECOMMEND, 499, gone.started)
            super().connection_lost(exc)

        def shutdown(self) -> None:
            """Lets a plain request have its answer first."""
            if self.is_busy:
                self.is_last = True
            else:
                super().shutdown()

        def _has_room(self) -> bool:
            most = self.limit_concurrency
            crowded = most is not None and len(self.connections) >= most
            return not crowded and not self.flow.write_paused

        def _the_usual_way(self, data: bytes) -> None:
            before = self.cycle
            self.is_between = False  # Until uvicorn's parser says so; one that never does keeps it.
            super().data_received(data)
            if self.cycle is not before and self.cycle is not None:
                self._stop()
            elif self.headers_timer is None and (
                self.cycle is None or self.cycle.response_complete
            ):
                self._wait()

        def _answer(self, head: Head) -> None:
            """Asks for what the plain request that is held wants."""
            self._stop()
            started, request_id = time.perf_counter(), id_of(head.given_id)
            body = bytes(self.held[head.start : head.size])
            del self.held[: head.size]
            self.head, self.is_busy = None, True
            if self.held:
                self.flow.pause_reading()
            tell = functools.partial(self._tell, request_id, started)
            try:
                message = read_message(RecommendRequest, body)
                withdraw = self.service.ask(message, request_id, tell)
            except Exception as error:
                tell(error)
            else:
                self.asking = _Asking(self.service, request_id, started, withdraw)

        def _tell(self, request_id: str, started: float, answer: Any) -> None:
            self.asking = None
            if self.is_lost or self.transport.is_closing():
                return
            try:
                written = reply(self.service, RECOMMEND, request_id, started, answer)
                self.transport.write(_written(*written))
            except Exception:
                _LOG.exception("request %s: its answer cannot be written", request_id)
                self.transport.abort()
                return
            self.server_state.total_requests += 1
            if self.is_last:
                self.transport.close()
            elif self.held:
                self.loop.call_soon(self._go_on)  # Not from here: many may have come at once.
            else:
                self._go_on()

        def _go_on(self) -> None:
            if self.is_lost or self.transport.is_closing():
                return
            self.is_busy = False
            self.flow.resume_reading()
            self.idle_since = self.loop.time()
            # One timer for many requests: it looks at the newest when it is due.
            if self.timeout_keep_alive_task is None:
                self._keep_alive(self.timeout_keep_alive)
            if self.held:
                data = bytes(self.held)
                self.held.clear()
                self.data_received(data)

        def _keep_alive(self, seconds: float) -> None:
            self.timeout_keep_alive_task = self.loop.call_later(
                seconds, self.timeout_keep_alive_handler
            )

        def timeout_keep_alive_handler(self) -> None:
            """Closes a connection that asks no more; plain requests since have not told uvicorn."""
            self.timeout_keep_alive_task = None
            if self.is_busy or self.head is not None:
                return  # The next answer begins to wait again.
            left = self.idle_since + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._keep_alive(left)
            else:
                super().timeout_keep_alive_handler()

        def _wait(self) -> None:
            self.headers_timer = self.loop.call_later(HEADERS_S, self._too_slow)

        def _stop(self) -> None:
            if self.headers_timer is not None:
                self.headers_timer.cancel()
                self.headers_timer = None

        def _too_slow(self) -> None:
            self.headers_timer = None
            if self.transport.is_closing():
                return
            if self.head is not None:
                error = HttpError("timeout", f"the body did not come within {HEADERS_S:g} s")
                self.is_last = True
                request_id = id_of(self.head.given_id)
                self._tell(request_id, time.perf_counter() - HEADERS_S, error)
            else:
                self.transport.close()

    return Connection


def _written(status: int, headers: dict[str, str], body: bytes) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return b"%b%b\r\n%b" % (_status_line(status), lines.encode(), body)


@functools.cache
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, http.HTTPStatus(status).phrase.encode())
