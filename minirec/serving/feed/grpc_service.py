"""A feed's services over gRPC: those that the process has."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import msgspec
import numpy as np

from minirec.serving.feed.answers import degraded, ranked_by, why
from minirec.serving.feed.messages import FeedRequest
from minirec.serving.feed.service import FeedServices
from minirec.serving.grpc_service import HealthyServer
from minirec.serving.refusals import BadRequestError, LateError, RefusedError
from minirec.serving.replies import id_of

PROTO = "minirec/serving/feed/feed.proto"
PACKAGE = "minirec.feed.v1"
MOST_BYTES = 16 * 1024 * 1024
"""Of a message: a history, a thousand candidates and their probabilities are far smaller."""

_MOST = 10_000  # Entries of a list that a client may ask for.


class FeedGrpcServer(HealthyServer):
    """Serves what a process has of a feed's services."""

    def __init__(self, services: FeedServices, address: str):
        """Binds the address; see `HealthyServer`.

        Args:
            services: answer.
            address: HOST:PORT.

        Raises:
            OSError: the address cannot be had.
        """
        messages, stubs = grpc.protos_and_services(PROTO)  # pyrefly: ignore
        made = {
            "FeedService": services.pipeline and _feed(services, messages),
            "RankingService": services.ranker and _ranking(services, messages),
            "RetrievalService": services.towers and _retrieval(services, messages),
            "EventsService": services.events and _events(services, messages),
        }
        handlers = {name: handler for name, handler in made.items() if handler is not None}

        def register(server: grpc.aio.Server) -> None:
            for name, handler in handlers.items():
                getattr(stubs, f"add_{name}Servicer_to_server")(handler, server)

        names = [f"{PACKAGE}.{name}" for name in handlers]
        super().__init__(address, names, register, MOST_BYTES)


async def _answered(
    services: FeedServices, route: str, context: Any, work: Callable[[], Any], request_id: str = ""
) -> Any:
    """Returns what `work` answers in a worker's thread, or ends the call as its error says."""
    started = time.perf_counter()
    request_id = id_of(request_id)
    left = context.time_remaining()
    try:
        if left is not None and left <= 0:
            raise LateError("the deadline has passed already")
        answer = await services.engine.run(work, left)
    except Exception as error:
        code, reason = _code(error)
        services.metrics.refused(reason)
        services.log(request_id, route, 400, started, reason=reason)
        if isinstance(error, RefusedError):
            seconds = (("retry-after", f"{max(error.retry_after_s, 0.001):.3f}"),)
            context.set_trailing_metadata(seconds)
        await context.abort(code, str(error) or type(error).__name__)
        raise AssertionError("abort raises") from error
    services.metrics.answered(route, time.perf_counter() - started)
    services.log(request_id, route, 200, started)
    return answer


def _code(error: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, RefusedError):
        draining = error.reason == "draining"
        code = grpc.StatusCode.UNAVAILABLE if draining else grpc.StatusCode.RESOURCE_EXHAUSTED
        return code, error.reason
    if isinstance(error, BadRequestError | msgspec.MsgspecError):
        return grpc.StatusCode.INVALID_ARGUMENT, "bad_request"
    if isinstance(error, LateError):
        return grpc.StatusCode.DEADLINE_EXCEEDED, "late"
    if isinstance(error, OSError):
        return grpc.StatusCode.UNAVAILABLE, "unavailable"
    return grpc.StatusCode.INTERNAL, "failed"


def _feed(services: FeedServices, messages: Any) -> Any:
    class Handler:
        async def ScoredItems(self, request: Any, context: Any) -> Any:  # noqa: N802, as in the proto
            request_id = id_of(request.request_id)

            def work() -> Any:
                message = msgspec.convert(msgspec.to_builtins(_asked(request)), FeedRequest)
                feed = services.feed(message, request.request_id)
                services.metrics.fed(feed, ranked_by(feed))
                items = []
                for place, item in enumerate(feed.shown.item.tolist()):
                    told = messages.ScoredItem(
                        item_id=services.shop.raw_item_ids[item],
                        title=services.shop.titles[item],
                        score=float(feed.shown["score"][place]),
                        rank=place,
                    )
                    if request.explain:
                        reasons = why(feed, place, services.actions)
                        told.sources.extend(reasons.sources)
                        told.probabilities.update(reasons.probabilities)
                        told.factors.update(reasons.factors)
                    items.append(told)
                return messages.FeedResponse(
                    items=items, ranked_by=ranked_by(feed), degraded=degraded(feed),
                    request_id=request_id,
                )  # fmt: skip

            return await _answered(services, "ScoredItems", context, work, request_id)

    return Handler()


def _asked(request: Any) -> FeedRequest:
    return FeedRequest(
        user=request.user,
        num=request.num or None,
        weights=dict(request.weights) or None,
        seen_items=list(request.seen_items),
        muted_words=list(request.muted_words),
        price_from=request.price_from if request.HasField("price_from") else None,
        price_to=request.price_to if request.HasField("price_to") else None,
        leave_out_served=request.leave_out_served,
        diversify=not request.same_order,
        explain=request.explain,
    )


def _past(services: FeedServices, events: Any) -> Any:
    return services.past_of(
        [event.item_id for event in events],
        [event.action for event in events],
        [event.time_ms for event in events],
    )


def _ranking(services: FeedServices, messages: Any) -> Any:
    ranker = services.ranker
    assert ranker is not None

    class Handler:
        async def Score(self, request: Any, context: Any) -> Any:  # noqa: N802
            def work() -> Any:
                items = services.items_of("candidates", request.candidates)
                past = _past(services, request.events)
                found = ranker.probabilities(past, items, request.now_ms / 1e3)
                return messages.ScoreResponse(
                    actions=list(ranker.actions), probabilities=np.ravel(found).tolist()
                )

            return await _answered(services, "Score", context, work)

    return Handler()


def _retrieval(services: FeedServices, messages: Any) -> Any:
    towers = services.towers
    assert towers is not None

    class Handler:
        async def Nearest(self, request: Any, context: Any) -> Any:  # noqa: N802
            def work() -> Any:
                past = _past(services, request.events)
                item, score = towers.find(past, min(request.num, _MOST), services.clock())
                raw = services.shop.raw_item_ids
                kept = [place for place, one in enumerate(item.tolist()) if one >= 0]
                return messages.NearestResponse(
                    item_ids=[raw[item[place]] for place in kept],
                    scores=[float(score[place]) for place in kept],
                )

            return await _answered(services, "Nearest", context, work)

        async def Vectors(self, request: Any, context: Any) -> Any:  # noqa: N802
            def work() -> Any:
                items = services.items_of("item_ids", request.item_ids)
                found = np.asarray(towers.vectors(items))
                return messages.VectorsResponse(
                    width=found.shape[1] if len(items) else 0, values=found.ravel().tolist()
                )

            return await _answered(services, "Vectors", context, work)

    return Handler()


def _events(services: FeedServices, messages: Any) -> Any:
    events = services.events
    assert events is not None

    def columns(kind: Any, found: Any) -> Any:
        return kind(**{name: column.tolist() for name, column in found.items()})

    class Handler:
        async def Append(self, request: Any, context: Any) -> Any:  # noqa: N802
            left = context.time_remaining()
            seconds = services.engine.deadline_s if left is None else left

            def work() -> Any:
                done = events.append(list(request.messages), 0.9 * seconds)
                services.metrics.events(done.accepted)
                return messages.AppendResponse(
                    accepted=done.accepted,
                    malformed=[
                        messages.Malformed(place=place, reason=why)
                        for place, why in done.malformed.items()
                    ],
                )

            return await _answered(services, "Append", context, work)

        async def History(self, request: Any, context: Any) -> Any:  # noqa: N802
            def work() -> Any:
                found = events.history(request.user, min(request.num, _MOST))
                return columns(messages.EventColumns, found)

            return await _answered(services, "History", context, work)

        async def Relations(self, request: Any, context: Any) -> Any:  # noqa: N802
            def work() -> Any:
                return columns(messages.RelationColumns, events.relations(request.user))

            return await _answered(services, "Relations", context, work)

        async def InNetwork(self, request: Any, context: Any) -> Any:  # noqa: N802
            def work() -> Any:
                found = events.in_network(request.user, min(request.num, _MOST))
                return columns(messages.ItemColumns, found)

            return await _answered(services, "InNetwork", context, work)

        async def NewItems(self, request: Any, context: Any) -> Any:  # noqa: N802
            def work() -> Any:
                return columns(messages.ItemColumns, events.new_items(min(request.num, _MOST)))

            return await _answered(services, "NewItems", context, work)

        async def Available(self, request: Any, context: Any) -> Any:  # noqa: N802
            def work() -> Any:
                items = np.array(request.item, np.int64)
                return messages.AvailableResponse(available=events.available(items).tolist())

            return await _answered(services, "Available", context, work)

        async def Activity(self, request: Any, context: Any) -> Any:  # noqa: N802
            def work() -> Any:
                found = events.activity()
                return messages.ActivityColumns(
                    item=found["item"].tolist(),
                    score=found["score"].tolist(),
                    num_actions=found["count"].shape[1],
                    count=found["count"].ravel().tolist(),
                )

            return await _answered(services, "Activity", context, work)

    return Handler()
