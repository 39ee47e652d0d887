"""What admins may ask, on an address of its own: changes of catalogue, stock and model."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from minirec.serving.look_ups import catalogue_version
from minirec.serving.messages import (
    CatalogueChange,
    ModelChange,
    StockChange,
    VersionAnswer,
    read_message,
)
from minirec.serving.openapi import admin_openapi
from minirec.serving.replies import (
    HttpError,
    answered,
    read_body,
    starlette_of,
)
from minirec.serving.service import Answerer, Service
from minirec.serving.versions import Change


class Changes(Protocol):
    """What admins may do, each from a thread of its own.

    Each raises `ValueError` for what cannot be, and `OSError` for what cannot be written; then
    nothing was changed.
    """

    def change(self, change: Change) -> object:
        """Serves another version of the catalogue."""
        ...

    def rollback(self) -> object:
        """Serves the catalogue before again."""
        ...

    def change_stock(self, sold_out: Sequence[str], back: Sequence[str]) -> object:
        """Takes items out of stock, and puts others back."""
        ...

    def change_model(self, run: str | None) -> object:
        """Serves another model."""
        ...

    def now(self) -> VersionAnswer:
        """Returns what serves."""
        ...


@dataclasses.dataclass(frozen=True)
class _Own:
    """Changes of this process's engine."""

    service: Service

    def change(self, change: Change) -> object:
        return self.service.versions.change(change)

    def rollback(self) -> object:
        return self.service.versions.rollback()

    def change_stock(self, sold_out: Sequence[str], back: Sequence[str]) -> object:
        return self.service.versions.change_stock(sold_out, back)

    def change_model(self, run: str | None) -> object:
        served = self.service.versions.change_model(run)
        self.service.metrics.model_changed(served.model_version)
        return served

    def now(self) -> VersionAnswer:
        served, stock = self.service.engine.now()
        return VersionAnswer(
            served.model_version,
            catalogue_version(served, stock),
            int(served.catalogue.listed.sum()),
        )


def admin_application(service: Service, token: str | None) -> Starlette:
    """Returns what admins may ask: changes of catalogue, stock and model.

    Args:
        service: whose.
        token: what every request's `Authorization: Bearer …` must say; None: nothing.
    """
    return admin_application_of(service, _Own(service), token)


def admin_application_of(service: Answerer, changes: Changes, token: str | None) -> Starlette:
    """Returns the same of what answers elsewhere.

    Args:
        service: writes the log.
        changes: what admins may do.
        token: see `admin_application`.
    """

    def guarded(change: Callable[[bytes], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            async def work(request_id: str) -> msgspec.Struct:
                _refuse_pages(request, needs_loopback=token is None)
                given = request.headers.get("authorization", "")
                if token is not None and not hmac.compare_digest(
                    given.encode(), f"Bearer {token}".encode()
                ):
                    raise HttpError("unauthorized", "authorization: needs the admin's token")
                body = await read_body(request.scope, request.receive)
                try:
                    await asyncio.to_thread(change, body)
                except msgspec.MsgspecError:
                    raise
                except ValueError as error:
                    raise HttpError("unprocessable", str(error)) from error
                except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
                    raise HttpError("unprocessable", f"nothing was changed: {error}") from error
                except OSError as error:
                    what = f"nothing was changed: {error.strerror or error}"
                    raise HttpError("cannot_write", what) from error
                return changes.now()

            return await answered(service, request, work)

        return endpoint

    def change_catalogue(body: bytes) -> None:
        change = read_message(CatalogueChange, body)
        changes.change(
            Change(change.sids, change.titles, change.appended, change.withdraw, change.restore)
        )

    def change_stock(body: bytes) -> None:
        change = read_message(StockChange, body)
        changes.change_stock(change.out, change.back)

    def change_model(body: bytes) -> None:
        changes.change_model(read_message(ModelChange, body or b"{}").run)

    document = json.dumps(admin_openapi()).encode()

    async def described(request: Request) -> Response:
        return Response(document, media_type="application/json")

    return starlette_of(
        [
            Route("/admin/catalogue", guarded(change_catalogue), methods=["POST"]),
            Route(
                "/admin/catalogue/rollback",
                guarded(lambda body: changes.rollback()),
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
        HttpError: a browser asks, or, without a token, by a name that is not this machine's.
    """
    headers = request.headers
    if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
        raise HttpError("forbidden", "pages in a browser may not ask this")
    host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
    if needs_loopback and not is_loopback(host.strip("[]")):
        raise HttpError("forbidden", f"host: {host!r} is not this machine, and there is no token")


def is_loopback(host: str) -> bool:
    """Returns whether a host is the machine itself."""
    return host in ("localhost", "::1") or host.startswith("127.")
