"""The engine over HTTP: what clients ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from minirec.serving.answers import catalogue_item
from minirec.serving.connections import RECOMMEND
from minirec.serving.look_ups import SIMILAR, catalogue_version, item_of, similar_items, status_of
from minirec.serving.messages import (
    BatchAnswer,
    BatchEntry,
    BatchRequest,
    ItemsAnswer,
    RecommendRequest,
    SimilarAnswer,
    read_message,
)
from minirec.serving.metrics import CONTENT_TYPE
from minirec.serving.openapi import openapi
from minirec.serving.pages import health_routes, page_routes
from minirec.serving.replies import (
    answered,
    number_of,
    read_body,
    starlette_of,
    told,
    unless_gone,
)
from minirec.serving.service import Answerer, Service

PAGE = Path(__file__).parent / "page"
_MOST_FOUND = 100


def application(service: Service) -> Starlette:
    """Returns what clients may ask: `/v1`, health, metrics, and the page."""
    routes = [*_answers(service), *_look_ups(service)]
    return starlette_of([*routes, *_pages(lambda: service.engine.is_draining)])


def application_with(
    service: Answerer, look_ups: Sequence[Route], is_draining: Callable[[], bool]
) -> Starlette:
    """Returns the same of what answers elsewhere.

    Args:
        service: answers.
        look_ups: the routes that need no search: items, status, metrics.
        is_draining: whether nobody is taken on any more.
    """
    return starlette_of([*_answers(service), *look_ups, *_pages(is_draining)])


def _answers(service: Answerer) -> list[Route]:

    async def recommend(request: Request) -> Response:
        # Few come this way: `minirec.serving.connections` answers most by itself.
        async def work(request_id: str) -> msgspec.Struct:
            body = await read_body(request.scope, request.receive)
            message = read_message(RecommendRequest, body)
            return await unless_gone(request.receive, service.answer(message, request_id))

        return await answered(service, request, work)

    async def recommend_batch(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            batch = read_message(BatchRequest, await read_body(request.scope, request.receive))
            now = service.now()  # One version answers all of them.

            async def one(place: int, message: RecommendRequest) -> BatchEntry:
                name = f"{request_id}.{place}"
                try:
                    return BatchEntry(answer=await service.answer(message, name, now))
                except Exception as error:
                    return BatchEntry(error=told(error, name)[1])

            work_on = _together(one, batch.requests)
            return await unless_gone(request.receive, work_on)

        return await answered(service, request, work)

    return [
        Route(RECOMMEND, recommend, methods=["POST"]),
        Route("/v1/recommend:batch", recommend_batch, methods=["POST"]),
    ]


def _look_ups(service: Service) -> list[Route]:
    async def find_items(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            text = request.query_params.get("q", "")
            num = number_of(request, "num", 20, _MOST_FOUND)
            served, stock = service.engine.now()
            catalogue, (in_stock, _) = served.catalogue, stock.now()
            found = await asyncio.to_thread(lambda: catalogue.index.find(text, num))
            items = [
                catalogue_item(catalogue, item, in_stock=bool(in_stock[item])) for item in found
            ]
            return ItemsAnswer(items, catalogue_version(served, stock))

        return await answered(service, request, work)

    async def one_item(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            served, stock = service.engine.now()
            catalogue, (in_stock, _) = served.catalogue, stock.now()
            item = item_of(catalogue, request.path_params["item_id"])
            return catalogue_item(catalogue, item, in_stock=bool(in_stock[item]))

        return await answered(service, request, work)

    async def similar(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            served, stock = service.engine.now()
            item = item_of(served.catalogue, request.path_params["item_id"])
            by = request.query_params.get("by", SIMILAR[0])
            num = number_of(request, "num", 10, _MOST_FOUND)
            found = await asyncio.to_thread(similar_items, served, stock, item, by, num)
            return SimilarAnswer(found, by, catalogue_version(served, stock))

        return await answered(service, request, work)

    async def status(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            return status_of(service)

        return await answered(service, request, work)

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return [
        Route("/v1/items", find_items),
        Route("/v1/items/{item_id:path}", one_item),
        Route("/v1/similar/{item_id:path}", similar),
        Route("/v1/status", status),
        Route("/metrics", metrics),
    ]


def _pages(is_draining: Callable[[], bool]) -> list[Route]:
    document = json.dumps(openapi()).encode()

    async def described(request: Request) -> Response:
        return Response(document, media_type="application/json")

    routes = [*health_routes(is_draining), Route("/openapi.json", described)]
    return [*routes, *page_routes(PAGE)]


async def _together(
    one: Callable[[int, RecommendRequest], Awaitable[BatchEntry]],
    requests: Sequence[RecommendRequest],
) -> BatchAnswer:
    answers = [one(place, message) for place, message in enumerate(requests)]
    return BatchAnswer(list(await asyncio.gather(*answers)))
