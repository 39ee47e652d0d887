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
from typing import Any

_MOST_CONNECTIONS = 2_000


class Connection(asyncio.Protocol):
    """A connection that asks one thing at a time."""

    def __init__(self) -> None:
        self._parts = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keeps the transport."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells who waits that there will be no answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)

    def data_received(self, data: bytes) -> None:
        """Looks whether an answer is whole."""
        self._parts += data
        head = self._parts.find(b"\r\n\r\n")
        if head < 0 or self._answer is None:
            return
        low = bytes(self._parts[:head]).lower()
        at = low.find(b"content-length:")
        size = int(low[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._parts) >= head + 4 + size:
            status = int(self._parts[9:12])
            del self._parts[: head + 4 + size]
            self._answer.set_result(status)

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> int:
        """Returns the status of the answer; 0 where the connection was closed."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer


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
        self._connections = 0
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
        place = self._plan.get("first", 0) + number * 7919
        while time.perf_counter() < begin + self._seconds:
            await self._one(place)
            place += 1

    async def _open_loop(self, begin: float) -> None:
        lot, tasks, place, at = random.Random(0), set(), 0, begin
        while at < begin + self._seconds:
            at += lot.expovariate(self._plan["rate"])
            if (left := at - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            task = asyncio.ensure_future(self._one(place, at))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            place += 1
        await asyncio.gather(*tasks)

    async def _one(self, place: int, due: float | None = None) -> None:
        connection = None
        while self._free and (connection is None or not connection.is_open):
            connection = self._free.popleft()
        if connection is None or not connection.is_open:
            if self._connections >= _MOST_CONNECTIONS:
                self.found.append((-1, time.perf_counter(), 0.0))
                return
            self._connections += 1
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        # A request that the client itself sends late has waited, too.
        began = time.perf_counter() if due is None else due
        status = await connection.ask(self._requests[place % len(self._requests)])
        now = time.perf_counter()
        self.found.append((status, now, 1e3 * (now - began)))
        if connection.is_open:
            self._free.append(connection)
        else:
            self._connections -= 1


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
