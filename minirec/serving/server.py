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
from minirec.serving.http import application
from minirec.serving.service import Answerer

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


class Answering(Protocol):
    """What a server serves."""

    def drain(self, timeout_s: float, /) -> object:
        """Takes nobody on any more, and waits so long for those who have been."""
        ...

    def close(self) -> None:
        """Ends what answers."""
        ...


@dataclasses.dataclass(frozen=True)
class Fronts:
    """How what is served is reached.

    Attributes:
        application: what clients may ask over HTTP.
        admin: what admins may; None: nothing.
        grpc: what serves an address over gRPC, imported only where there is one; None: nothing.
        has_short_way: whether `minirec.serving.connections` may answer by itself.
    """

    application: Callable[[Any], Any]
    admin: Callable[[Any, str | None], Any] | None = None
    grpc: Callable[[Any, str], Any] | None = None
    has_short_way: bool = False


def recommender_grpc(service: Answerer, address: str) -> Any:
    """Returns what serves recommendations over gRPC."""
    from minirec.serving.grpc_service import GrpcServer  # Takes a while to import.

    return GrpcServer(service, address)


RECOMMENDER = Fronts(application, admin_application, recommender_grpc, has_short_way=True)


class _Door:
    """Lets nobody in but health checks, until there is an application behind it."""

    def __init__(self) -> None:
        self.application: Any = None
        self.service: Answerer | None = None

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


async def serve[Served: Answering](
    load: Callable[[], Served],
    addresses: Addresses,
    *,
    fronts: Fronts = RECOMMENDER,
    drain_s: float = 30.0,
    on_ready: Callable[[Served], None] = lambda service: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serves until SIGTERM, SIGINT or `stop`, and answers whom it has taken on before it ends.

    Args:
        load: makes what answers; called in another thread while health checks are answered.
        addresses: where it listens.
        fronts: how what answers is reached.
        drain_s: seconds that those get who have been taken on.
        on_ready: called when the first request can be answered.
        stop: ends the server, as a signal does.

    Raises:
        OSError: an address cannot be had.
    """
    stop = stop or asyncio.Event()
    _on_signals(stop.set)
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
        _on_signals(stop.set)  # Loading may start what has handlers of its own, such as Ray.
        if addresses.grpc_port and fronts.grpc is not None:
            grpc_server = fronts.grpc(service, f"{addresses.host}:{addresses.grpc_port}")
            await grpc_server.start()
        if not stop.is_set():
            door.application = fronts.application(service)
            if fronts.has_short_way and isinstance(service, Answerer):
                door.service = service
            if fronts.admin is not None:
                admin_door.application = fronts.admin(service, addresses.admin_token)
            on_ready(service)
        await stopped
        if grpc_server is not None:
            await grpc_server.not_serving()
        await asyncio.to_thread(service.drain, drain_s)
    finally:
        for server, _ in servers:
            server.should_exit = True
        if grpc_server is not None:
            await grpc_server.stop(1.0)
        await asyncio.gather(*tasks, return_exceptions=True)
        if service is not None:
            await asyncio.to_thread(service.close)


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError):  # Not in the main thread: a test.
            loop.add_signal_handler(name, stop)


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
