"""A feed over HTTP: `/v1/feed`, `/v1/events`, health, metrics and the page."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from minirec.serving.feed.answers import feed_answer, ranked_by
from minirec.serving.feed.messages import (
    EventsAnswer,
    EventsRequest,
    FeedRequest,
    FeedStatus,
    FoundItem,
    FoundItems,
    HistoryAnswer,
    MalformedEvent,
    PastEvent,
)
from minirec.serving.feed.service import FeedServices
from minirec.serving.messages import read_message
from minirec.serving.metrics import CONTENT_TYPE
from minirec.serving.pages import health_routes, page_routes
from minirec.serving.refusals import BadRequestError, LateError, RefusedError
from minirec.serving.replies import HttpError, answered, number_of, read_body, starlette_of

PAGE = Path(__file__).parent / "page"
_MOST_HISTORY = 100
_MOST_FOUND = 20
_MOST_WORDS = 20  # of a title that is looked for


def application(services: FeedServices) -> Starlette:
    """Returns what clients may ask of a process; what it does not serve is no route of it."""

    async def feed(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            started = time.perf_counter()
            body = await read_body(request.scope, request.receive)
            message = read_message(FeedRequest, body)
            given = request_id if request.headers.get("x-request-id") else ""
            deadline_s = None if message.deadline_ms is None else message.deadline_ms / 1e3
            found = await services.engine.run(lambda: services.feed(message, given), deadline_s)
            seconds = time.perf_counter() - started
            services.metrics.fed(found, ranked_by(found))
            return feed_answer(
                found, services.shop, services.actions, request_id, seconds,
                explain=message.explain,
            )  # fmt: skip

        return await counted(request, work)

    async def events(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            message = read_message(EventsRequest, await read_body(request.scope, request.receive))
            seconds = services.engine.deadline_s

            def append() -> EventsAnswer:
                try:
                    done = services.append(message.events, seconds)
                except OSError as error:
                    raise HttpError("unavailable", str(error)) from error
                wrong = [MalformedEvent(place, why) for place, why in done.malformed.items()]
                return EventsAnswer(done.accepted, wrong)

            return await services.engine.run(append, seconds + 1.0)

        return await counted(request, work)

    async def history(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            user = request.query_params.get("user", "")
            if not user:
                raise BadRequestError("user", "is missing")
            num = number_of(request, "num", 20, _MOST_HISTORY)
            return await services.engine.run(lambda: _history(services, user, num))

        return await counted(request, work)

    async def find_items(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            words = request.query_params.get("q", "").casefold().split()[:_MOST_WORDS]
            shop = services.shop

            def find() -> FoundItems:
                if not words:
                    return FoundItems([])
                found = []
                for item, title in enumerate(map(str.casefold, shop.titles)):
                    if all(word in title for word in words):
                        found.append(_found_item(services, item))
                        if len(found) >= _MOST_FOUND:
                            break
                return FoundItems(found)

            return await services.engine.run(find)

        return await counted(request, work)

    async def status(request: Request) -> Response:
        async def work(request_id: str) -> msgspec.Struct:
            return FeedStatus(
                ready=True,
                draining=services.engine.is_draining,
                role=services.role,
                version=services.version,
                actions=list(services.actions),
                weights=dict(services.weights),
                num_shown=services.num_shown,
                most_shown=services.most_shown,
                users=list(services.users),
                components={} if services.pipeline is None else services.pipeline.components(),
                waiting=services.engine.num_waiting,
            )

        return await counted(request, work)

    async def counted(
        request: Request, work: Callable[[str], Awaitable[msgspec.Struct]]
    ) -> Response:
        async def told(request_id: str) -> msgspec.Struct:
            started = time.perf_counter()
            try:
                answer = await work(request_id)
            except Exception as error:
                services.metrics.refused(_reason(error))
                raise
            services.metrics.answered(request.url.path, time.perf_counter() - started)
            return answer

        return await answered(services, request, told)

    async def metrics(request: Request) -> Response:
        return Response(services.metrics.text(), headers={"content-type": CONTENT_TYPE})

    routes = [
        Route("/v1/status", status),
        *health_routes(lambda: services.engine.is_draining),
        Route("/metrics", metrics),
    ]
    if services.pipeline is not None:
        routes += [
            Route("/v1/feed", feed, methods=["POST"]),
            Route("/v1/items", find_items),
            *page_routes(PAGE),
        ]
    if services.events is not None:
        routes.append(Route("/v1/events", events, methods=["POST"]))
    if services.live is not None:
        routes.append(Route("/v1/events", history))
    return starlette_of(routes)


def _history(services: FeedServices, user: str, num: int) -> HistoryAnswer:
    assert services.live is not None
    past, shop = services.live.history(user, num), services.shop
    events = [
        PastEvent(
            shop.raw_item_ids[item], shop.titles[item], services.actions[action], round(1e3 * at)
        )
        for item, action, at in zip(*(column.tolist() for column in past), strict=True)
    ]
    return HistoryAnswer(
        user,
        events[::-1],
        [shop.brands[brand] for brand in services.live.followed(user).tolist()],
        [shop.brands[brand] for brand in services.live.blocked(user).tolist()],
    )


def _found_item(services: FeedServices, item: int) -> FoundItem:
    shop = services.shop
    brand, category = int(shop.brand[item]), int(shop.category[item])
    return FoundItem(
        shop.raw_item_ids[item],
        shop.titles[item],
        shop.brands[brand] if brand >= 0 else "",
        shop.categories[category] if category >= 0 else "",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, RefusedError | HttpError):
        return error.reason
    if isinstance(error, LateError):
        return "late"
    return "bad_request" if isinstance(error, BadRequestError | msgspec.MsgspecError) else "failed"
