"""A chat over HTTP: `/v1/chat`, whole or by server-sent events, and a page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from minirec.serving.chat.chat import Chat, Drawing, Reply
from minirec.serving.chat.messages import ChatRequest, chunk, completion
from minirec.serving.chat.prompt import Turn
from minirec.serving.messages import read_message
from minirec.serving.pages import health_routes, page_routes
from minirec.serving.refusals import BadRequestError, RefusedError
from minirec.serving.replies import error_response, id_of, read_body, starlette_of, told

PAGE = Path(__file__).parent / "page"
_MOST_WAITING = 16
_RETRY_S = 5.0
_LOG = logging.getLogger("minirec.serving.requests")


class ChatEngine:
    """Answers one question at a time: a model writes as fast for one as the machine can."""

    def __init__(self, chat: Chat):
        """Waits for questions."""
        self.chat = chat
        self._pool = ThreadPoolExecutor(1, "chat")
        self._lock = threading.Lock()
        self._waiting = 0
        self._idle = threading.Event()
        self._idle.set()
        self.is_draining = False

    async def answer(
        self, question: str, turns: Sequence[Turn], drawing: Drawing
    ) -> AsyncIterator[str | Reply]:
        """Yields what `Chat.answer` does; where nobody asks for more, it ends.

        Raises:
            RefusedError: too many wait, or the server ends.
            ValueError: the question cannot be answered at all.
        """
        self._enter()
        loop = asyncio.get_running_loop()
        parts: asyncio.Queue[str | Reply | BaseException | None] = asyncio.Queue()
        is_over = threading.Event()

        def tell(part: str | Reply | BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # The loop has ended.
                loop.call_soon_threadsafe(parts.put_nowait, part)

        def work() -> None:
            try:
                if not is_over.is_set():
                    for part in self.chat.answer(question, turns, drawing):
                        tell(part)
                        if is_over.is_set():
                            break
                tell(None)
            except BaseException as error:
                tell(error)
            finally:
                self._leave()

        self._pool.submit(work)
        try:
            while (part := await parts.get()) is not None:
                if isinstance(part, BaseException):
                    raise part
                yield part
        finally:
            is_over.set()

    def drain(self, seconds: float) -> None:
        """Takes no more questions, and waits so long for those that are being answered."""
        self.is_draining = True
        self._idle.wait(seconds)

    def close(self) -> None:
        """Ends."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _enter(self) -> None:
        if self.is_draining:
            raise RefusedError("draining", "the server ends", _RETRY_S)
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                raise RefusedError(
                    "queue_full", f"{self._waiting} questions wait already", _RETRY_S
                )
            self._waiting += 1
            self._idle.clear()

    def _leave(self) -> None:
        with self._lock:
            self._waiting -= 1
            if not self._waiting:
                self._idle.set()


class ChatService:
    """What HTTP speaks for.

    Attributes:
        engine: answers.
        name: what the model is called.
    """

    def __init__(self, chat: Chat, name: str):
        """Takes a chat."""
        self.engine, self.name = ChatEngine(chat), name

    def drain(self, timeout_s: float) -> None:
        """Takes nobody on any more, and waits so long for those who have been."""
        self.engine.drain(timeout_s)

    def close(self) -> None:
        """Ends what answers."""
        self.engine.close()

    def log(self, request_id: str, status: int, started: float, **more: Any) -> None:
        """Writes a line about a request; what was asked is not in it."""
        milliseconds = round(1e3 * (time.perf_counter() - started), 3)
        line = {"request_id": request_id, "route": "/v1/chat", "status": status, "ms": milliseconds}
        _LOG.info(json.dumps(line | more))


def chat_application(service: ChatService) -> Starlette:
    """Returns what clients may ask: `/v1/chat`, health, and the page."""

    async def chat(request: Request) -> Response:
        started = time.perf_counter()
        request_id = id_of(request.headers.get("x-request-id", ""))
        try:
            message = read_message(ChatRequest, await read_body(request.scope, request.receive))
            if message.model not in (None, service.name):
                raise BadRequestError("model", f"{message.model!r}; {service.name!r} is served")
            parts = service.engine.answer(*message.question(), message.drawing())
            # What cannot be answered at all is said by the status, before the first word.
            first = await anext(parts)
            created = int(time.time())
            if message.stream:
                return StreamingResponse(
                    _events(service, first, parts, request_id, created, started),
                    media_type="text/event-stream",
                    headers={"x-request-id": request_id, "cache-control": "no-cache"},
                )
            reply = first
            async for part in parts:
                reply = part
            assert isinstance(reply, Reply)
            body = json.dumps(completion(reply, service.name, request_id, created))
            service.log(request_id, 200, started, kind=reply.kind)
            return Response(body, 200, {"x-request-id": request_id}, "application/json")
        except ClientDisconnect:
            service.log(request_id, 499, started)
            return Response(status_code=499)
        except Exception as error:
            if type(error) is ValueError:  # Such as a question longer than what the model reads.
                error = BadRequestError("messages", str(error))
            status, why, headers = told(error, request_id)
            service.log(request_id, status, started, reason=why.reason)
            return error_response(status, why, {"x-request-id": request_id, **headers})

    async def models(request: Request) -> Response:
        listed = [{"id": service.name, "object": "model", "owned_by": "minirec"}]
        body = json.dumps({"object": "list", "data": listed})
        return Response(body, media_type="application/json")

    return starlette_of(
        [
            Route("/v1/chat", chat, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            *health_routes(lambda: service.engine.is_draining),
            *page_routes(PAGE, "default-src 'self'"),
        ]
    )


async def _events(
    service: ChatService,
    first: str | Reply,
    parts: AsyncIterator[str | Reply],
    request_id: str,
    created: int,
    started: float,
) -> AsyncIterator[bytes]:
    """Yields an answer as server-sent events: its text, its sources, what it is, and the end."""
    reply: Reply | None = None

    def event(text: str | None, reply: Reply | None = None) -> bytes:
        made = chunk(text, service.name, request_id, created, reply)
        return b"data: " + json.dumps(made).encode() + b"\n\n"

    try:
        part: str | Reply | None = first
        while part is not None:
            if isinstance(part, Reply):
                reply = part
                if reply.sources:
                    yield event(f"\n\n{reply.sources_text}")
                yield event(None, reply)
            else:
                yield event(part)
            part = await anext(parts, None)
        yield b"data: [DONE]\n\n"
    except Exception as error:
        _, why, _ = told(error, request_id)
        yield b"data: " + json.dumps({"error": {"message": why.message}}).encode() + b"\n\n"
    finally:
        kind = {} if reply is None else {"kind": reply.kind}
        service.log(request_id, 499 if reply is None else 200, started, **kind)
