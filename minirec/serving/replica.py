"""One of several engines behind a front: answers, and takes part in rolls."""

from __future__ import annotations

import asyncio
import os
import platform
from typing import Any

import msgspec

from minirec.serving.answers import to_json
from minirec.serving.http import application
from minirec.serving.look_ups import status_of
from minirec.serving.messages import RecommendRequest
from minirec.serving.service import Service
from minirec.serving.shared_versions import SharedVersions
from minirec.serving.versions import Change
from minirec.serving.wire import Failure, Pin, Release, Standing

_IN_THE_LOOP = ("recommend", "look_up")


class Replica:
    """What a front may call, each by its name through `call`."""

    def __init__(self, name: str, service: Service, versions: SharedVersions):
        """Begins to answer.

        Args:
            name: tells it from others.
            service: its engine.
            versions: of its engine's catalogue and model.
        """
        self._name, self._service, self._versions = name, service, versions
        self._application = application(service)
        self._calls = {
            name: getattr(self, name)
            for name in (
                "recommend", "look_up", "status", "metrics", "standing", "propose",
                "propose_model", "prepare", "forget", "commit", "take", "write_stock",
                "apply_stock",
            )
        }  # fmt: skip

    async def call(self, method: str, *args: Any) -> Any:
        """Returns what a method does, or a `Failure` where it raises."""
        try:
            if method in _IN_THE_LOOP:
                return await self._calls[method](*args)
            return await asyncio.to_thread(self._calls[method], *args)
        except Exception as error:
            return Failure.of(error)

    def close(self) -> None:
        """Ends the engine."""
        self._service.close()

    async def recommend(self, pin: Pin, body: bytes, request_id: str) -> bytes:
        """Returns the answer to a message, both as JSON; see `Answerer.answer`."""
        at = self._versions.at_once(pin)
        if at is None:
            at = await asyncio.to_thread(self._versions.at, pin)
        message = msgspec.json.decode(body, type=RecommendRequest)
        return to_json(await self._service.answer(message, request_id, at))

    async def look_up(
        self, path: str, query: bytes, request_id: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers and body of what HTTP answers to GET, as it does by itself."""
        headers = [(b"x-request-id", request_id.encode("latin-1", "ignore"))]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": query, "headers": headers, "server": None, "client": None,
        }  # fmt: skip
        answered: dict[str, Any] = {}
        body = bytearray()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answered.update(message)
            else:
                body.extend(message.get("body", b""))

        await self._application(scope, receive, send)
        told = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in answered["headers"]
        }
        return answered["status"], told, bytes(body)

    def status(self) -> bytes:
        """Returns `GET /v1/status`."""
        return to_json(status_of(self._service))

    def metrics(self) -> tuple[str, int, str, str]:
        """Returns (name, process, machine, everything in Prometheus' text format)."""
        text = self._service.metrics.text().decode()
        return self._name, os.getpid(), platform.node(), text

    def standing(self) -> Standing:
        """Returns what it serves."""
        return self._versions.standing()

    def propose(self, release: Release, change: Change) -> Release:
        """Checks and writes a new version; see `SharedVersions`."""
        return self._versions.propose(release, change)

    def propose_model(self, release: Release, run: str | None) -> Release:
        """Looks for another model; see `SharedVersions`."""
        return self._versions.propose_model(release, run)

    def prepare(self, release: Release) -> Standing:
        """Makes a release beside what serves; see `SharedVersions`."""
        return self._versions.prepare(release)

    def forget(self, release: Release) -> None:
        """Drops a release; see `SharedVersions`."""
        self._versions.forget(release)

    def commit(self, standing: Standing) -> None:
        """Writes what is served from now on; see `SharedVersions`."""
        self._versions.commit(standing)

    def take(self, release: Release) -> None:
        """Serves a release; see `SharedVersions`."""
        self._versions.take(release)
        self._service.metrics.model_changed(release.model_version)

    def write_stock(self, out: list[str], back: list[str], number: int) -> None:
        """Writes a change of stock; see `SharedVersions`."""
        self._versions.write_stock(out, back, number)

    def apply_stock(self, out: list[str], back: list[str], number_before: int, number: int) -> None:
        """Takes a change of stock over; see `SharedVersions`."""
        self._versions.apply_stock(out, back, number_before, number)
