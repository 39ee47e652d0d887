"""What admins may ask, on an address of its own: changes of catalogue, stock and model."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

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
from minirec.serving.service import Service
from minirec.serving.versions import Change


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
                served, stock = service.engine.now()
                return VersionAnswer(
                    served.model_version,
                    catalogue_version(served, stock),
                    int(served.catalogue.listed.sum()),
                )

            return await answered(service, request, work)

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

    return starlette_of(
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
