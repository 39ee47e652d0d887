"""Routes that every server has: health, and the files of its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from minirec.serving.messages import ErrorBody
from minirec.serving.replies import error_response

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY = "default-src 'self'; img-src 'self' data:"


def health_routes(is_draining: Callable[[], bool]) -> list[Route]:
    """Returns `/healthz`, which is well while the process lives, and `/readyz`.

    Args:
        is_draining: whether nobody is taken on any more.
    """

    async def healthy(request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def ready(request: Request) -> Response:
        draining = is_draining()
        text = "draining\n" if draining else "ready\n"
        return Response(text, 503 if draining else 200, media_type="text/plain")

    return [Route("/healthz", healthy), Route("/readyz", ready)]


def page_routes(folder: Path, policy: str = _POLICY) -> list[Route]:
    """Returns `/`, which is index.html, and `/page/NAME`, the other files of a folder.

    Args:
        folder: holds them.
        policy: what the page may load. What pages show is data; nothing comes from elsewhere.
    """
    headers = {"content-security-policy": policy, "cache-control": "no-cache"}

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        path = folder / name
        if path.name != name or not path.is_file():
            return error_response(404, ErrorBody("not_found", f"no page {name!r}", ""))
        return FileResponse(path, media_type=_TYPES.get(path.suffix), headers=headers)

    return [Route("/", page), Route("/page/{name}", page)]
