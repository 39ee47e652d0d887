"""Loads a server with requests over HTTP, from a process of its own and the standard library alone.

    python -m launch.bench.http_load PLAN.json

The plan says `port`, `path`, `bodies` (a file of one body a line), `seconds`, and either `clients`
that each ask again as soon as they have an answer (`first`, 0 by default, is the place in the file
where the first of them begins), or `rate`, requests a second whose times are
drawn by lot whatever becomes of the others. The last line printed is a JSON object.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

_MOST_CONNECTIONS = 2_000


def _nothing(_: None) -> None:
    """Does nothing."""


class Connection(asyncio.Protocol):
    """A connection that asks one thing at a time."""

    def __init__(self) -> None:
        self._parts = bytearray()
        self._told: Callable[[int], None] | None = None
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keeps the transport."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells who waits that there will be no answer."""
        self._tell(0)

    def data_received(self, data: bytes) -> None:
        """Looks whether an answer is whole."""
        self._parts += data
        head = self._parts.find(b"\r\n\r\n")
        if head < 0 or self._told is None:
            return
        at = self._parts.find(b"content-length:", 0, head)
        if at < 0:
            at = self._parts[:head].lower().find(b"content-length:")
        size = int(self._parts[at + 15 : head].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._parts) >= head + 4 + size:
            status = int(self._parts[9:12])
            del self._parts[: head + 4 + size]
            self._tell(status)

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes, told: Callable[[int], None]) -> None:
        """Asks; `told` is called with the answer's status, 0 where the connection was closed."""
        self._told = told
        self._transport.write(request)

    def _tell(self, status: int) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(status)


class Load:
    """What was asked, and what came of it."""

    def __init__(self, plan: dict[str, Any]):
        self._port = plan["port"]
        self._seconds = plan["seconds"]
        self._plan = plan
        with open(plan["bodies"], "rb") as file:
            bodies = file.read().splitlines()
        head = f"POST {plan['path']} HTTP/1.1\r\nhost: x\r\ncontent-length: "
        self._requests = [
            head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies
        ]
        self._free: collections.deque[Connection] = collections.deque()
        self._connections = self._under_way = 0
        self.found: list[tuple[int, float, float]] = []

    async def run(self) -> dict[str, Any]:
        """Returns the statuses and how long answers took, of requests after the first tenth."""
        begin = time.perf_counter()
        if "rate" in self._plan:
            await self._open_loop(begin)
        else:
            clients = [self._client(begin, number) for number in range(self._plan["clients"])]
            await asyncio.gather(*clients)
        warm = begin + self._seconds / 10
        counted = [entry for entry in self.found if entry[1] >= warm]
        end = max((entry[1] for entry in counted), default=warm)
        statuses = collections.Counter(status for status, _, _ in counted)
        return {
            "statuses": {str(status): number for status, number in sorted(statuses.items())},
            "seconds": end - warm,
            "per_second": statuses[200] / max(end - warm, 1e-9),
            "answered_ms": _percentiles([ms for status, _, ms in counted if status == 200]),
            "refused_ms": _percentiles([ms for status, _, ms in counted if status == 429]),
        }

    async def _client(self, begin: float, number: int) -> None:
        loop = asyncio.get_running_loop()
        place = self._plan.get("first", 0) + number * 7919
        while time.perf_counter() < begin + self._seconds:
            answered = loop.create_future()
            await self._ask(place, time.perf_counter(), answered.set_result)
            await answered
            place += 1

    async def _open_loop(self, begin: float) -> None:
        lot, place, at = random.Random(0), 0, begin
        making: set[asyncio.Task[None]] = set()
        while at < begin + self._seconds:
            at += lot.expovariate(self._plan["rate"])
            if (left := at - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            # A request that the client itself sends late has waited, too.
            if (connection := self._idle()) is not None:
                self._send(connection, place, at)
            else:
                task = asyncio.ensure_future(self._ask(place, at))
                making.add(task)
                task.add_done_callback(making.discard)
            place += 1
        while making or self._under_way:
            await asyncio.sleep(0.01)

    async def _ask(
        self, place: int, began: float, answered: Callable[[None], None] = _nothing
    ) -> None:
        """Asks over a connection that is there, or over a new one."""
        connection = self._idle()
        if connection is None:
            if self._connections >= _MOST_CONNECTIONS:
                self.found.append((-1, time.perf_counter(), 0.0))
                answered(None)
                return
            self._connections += 1
            loop = asyncio.get_running_loop()
            try:
                _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
            except OSError:
                self._connections -= 1
                self.found.append((-1, time.perf_counter(), 0.0))
                answered(None)
                return
        self._send(connection, place, began, answered)

    def _idle(self) -> Connection | None:
        while self._free:
            connection = self._free.popleft()
            if connection.is_open:
                return connection
            self._connections -= 1
        return None

    def _send(
        self,
        connection: Connection,
        place: int,
        began: float,
        answered: Callable[[None], None] = _nothing,
    ) -> None:
        def told(status: int) -> None:
            now = time.perf_counter()
            self.found.append((status, now, 1e3 * (now - began)))
            self._under_way -= 1
            if connection.is_open:
                self._free.append(connection)
            else:
                self._connections -= 1
            answered(None)

        self._under_way += 1
        connection.ask(self._requests[place % len(self._requests)], told)


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    values = sorted(values)
    return {
        name: round(values[min(len(values) - 1, int(share * len(values)))], 3)
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    }


def main() -> None:
    """Runs the plan that the command line names."""
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    print(json.dumps(run(Load(plan).run())))


if __name__ == "__main__":
    main()
