"""Everything that listens, in one event loop, from the first byte to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import uvicorn
from starlette.types import Receive, Scope, Send

from minirec.serving.admin import admin_application, is_loopback
from minirec.serving.connections import connections_of
from minirec.serving.http import application as recommending
from minirec.serving.service import Service

_HEADERS_BYTES = 16 * 1024
_MOST_CONNECTIONS = 8192
_KEEP_ALIVE_S = 75


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Where a server listens; port 0 turns one off.

    Attributes:
        host: of HTTP and gRPC.
        http_port: for clients.
        grpc_port: for clients.
        admin_host: of the admins' HTTP.
        admin_port: of it.
        admin_token: what admins must say; needed where `admin_host` is not the machine itself.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 0
    admin_host: str = "127.0.0.1"
    admin_port: int = 0
    admin_token: str | None = None

    def __post_init__(self):
        ports = [port for port in (self.http_port, self.grpc_port, self.admin_port) if port]
        if not ports:
            raise ValueError("--http_port, --grpc_port and --admin_port are all 0: none listens")
        if len(set(ports)) < len(ports):
            raise ValueError(f"ports {ports}: each must be another")
        if self.admin_port and not self.admin_token and not is_loopback(self.admin_host):
            raise ValueError(
                f"--admin_host={self.admin_host}: other machines reach it, so that it needs a "
                "token: set MINIREC_ADMIN_TOKEN in the environment"
            )


class _Door:
    """Lets nobody in but health checks, until there is an application behind it."""

    def __init__(self) -> None:
        self.application: Any = None
        self.service: Service | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self.application is not None:
            await self.application(scope, receive, send)
            return
        is_alive = scope["path"] == "/healthz"
        headers = [(b"content-type", b"text/plain"), (b"retry-after", b"1")]
        status = 200 if is_alive else 503
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"ok\n" if is_alive else b"not ready: the model is being loaded\n"
        await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `serve`."""
        yield


class Answering(Protocol):
    """What works for a service."""

    def drain(self, seconds: float, /) -> object:
        """Takes on nobody more, and waits so long for those who have been."""
        ...

    def close(self) -> None:
        """Ends."""
        ...


class Served(Protocol):
    """What a server answers for."""

    @property
    def engine(self) -> Answering:
        """Answers."""
        ...


async def serve[S: Served](
    load: Callable[[], S],
    addresses: Addresses,
    *,
    drain_s: float = 30.0,
    on_ready: Callable[[S], None] = lambda service: None,
    stop: asyncio.Event | None = None,
    application: Callable[[Any], Any] = recommending,
) -> None:
    """Serves until SIGTERM, SIGINT or `stop`, and answers whom it has taken on before it ends.

    Args:
        load: makes what answers; called in another thread while health checks are answered.
        addresses: where it listens.
        drain_s: seconds that those get who have been taken on.
        on_ready: called when the first request can be answered.
        stop: ends the server, as a signal does.
        application: what clients may ask of the service; by default, recommendations. gRPC and
            admins' HTTP are for those alone.

    Raises:
        OSError: an address cannot be had.
    """
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError):  # Not in the main thread: a test.
            loop.add_signal_handler(name, stop.set)
    door, admin_door = _Door(), _Door()
    servers: list[tuple[_Server, socket.socket]] = []
    for host, port, behind, flag in (
        (addresses.host, addresses.http_port, door, "--http_port"),
        (addresses.admin_host, addresses.admin_port, admin_door, "--admin_port"),
    ):
        if port:
            servers.append((_Server(_config(behind)), _bound(host, port, flag)))
    tasks = [asyncio.create_task(server.serve([bound])) for server, bound in servers]
    service, grpc_server = None, None
    try:
        loading = asyncio.create_task(asyncio.to_thread(load))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        service = await loading
        recommender = service if isinstance(service, Service) else None
        if addresses.grpc_port and recommender is not None:
            from minirec.serving.grpc_service import GrpcServer  # Takes a while to import.

            grpc_server = GrpcServer(recommender, f"{addresses.host}:{addresses.grpc_port}")
            await grpc_server.start()
        if not stop.is_set():
            door.application, door.service = application(service), recommender
            if recommender is not None:
                admin_door.application = admin_application(recommender, addresses.admin_token)
            on_ready(service)
        await stopped
        if grpc_server is not None:
            await grpc_server.not_serving()
        await asyncio.to_thread(service.engine.drain, drain_s)
    finally:
        for server, _ in servers:
            server.should_exit = True
        if grpc_server is not None:
            await grpc_server.stop(1.0)
        await asyncio.gather(*tasks, return_exceptions=True)
        if service is not None:
            await asyncio.to_thread(service.engine.close)


def _config(door: _Door) -> uvicorn.Config:
    return uvicorn.Config(
        door,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        http=connections_of(door),
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
        limit_concurrency=_MOST_CONNECTIONS,
        h11_max_incomplete_event_size=_HEADERS_BYTES,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )


def _bound(host: str, port: int, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        what = error.strerror or str(error)
        raise OSError(error.errno, f"{flag}={port}: {host}:{port} cannot be had: {what}") from error
    return bound
