"""The engine over gRPC, with health checking and reflection."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
import grpc_health.v1._async as health_aio
import msgspec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from minirec.serving.messages import AllowRule, RecommendRequest
from minirec.serving.refusals import BadRequestError, LateError, RefusedError, SearchFailedError
from minirec.serving.replies import id_of, told
from minirec.serving.service import MAX_BODY, Answerer

PROTO = "minirec/serving/serving.proto"
SERVICE = "minirec.v1.Recommender"

_CODES: Mapping[type[Exception], grpc.StatusCode] = {
    BadRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    msgspec.ValidationError: grpc.StatusCode.INVALID_ARGUMENT,
    LateError: grpc.StatusCode.DEADLINE_EXCEEDED,
    SearchFailedError: grpc.StatusCode.INTERNAL,
}


class HealthyServer:
    """Serves on an address until it is stopped, with health checking and reflection."""

    def __init__(
        self,
        address: str,
        names: Sequence[str],
        register: Callable[[grpc.aio.Server], None],
        max_bytes: int = MAX_BODY,
    ):
        """Binds the address; answers nobody yet. A running event loop is needed.

        Args:
            address: HOST:PORT.
            names: of the services.
            register: adds them to a server.
            max_bytes: of a message.

        Raises:
            OSError: the address cannot be had.
        """
        # Two servers on one port would each get some of the clients.
        options = [("grpc.max_receive_message_length", max_bytes), ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(options=options)
        self._names = names
        register(self._server)
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        all_names = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(all_names, self._server)
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"--grpc_port: {address} cannot be had: {error}") from error

    async def start(self) -> None:
        """Answers from now on."""
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        """Tells health checks that there will be no more answers."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Ends, and gives what is under way so many seconds."""
        await self._server.stop(grace_s)


class GrpcServer(HealthyServer):
    """Serves recommendations."""

    def __init__(self, service: Answerer, address: str):
        """Binds the address; see `HealthyServer`.

        Args:
            service: answers.
            address: HOST:PORT.

        Raises:
            OSError: the address cannot be had.
        """
        messages, services = grpc.protos_and_services(PROTO)  # pyrefly: ignore
        handler = _handler(service, messages)
        super().__init__(
            address,
            (SERVICE,),
            lambda server: services.add_RecommenderServicer_to_server(handler, server),
        )


def _handler(service: Answerer, messages: Any) -> Any:
    class Handler:
        async def Recommend(self, request: Any, context: Any) -> Any:  # noqa: N802, as in the proto
            started = time.perf_counter()
            request_id = id_of(request.request_id)
            try:
                message = _asked(request, context.time_remaining())
                answer = await service.answer(message, request_id)
            except RefusedError as error:
                code = grpc.StatusCode.RESOURCE_EXHAUSTED
                if error.reason in ("draining", "replica_lost"):
                    code = grpc.StatusCode.UNAVAILABLE
                status = told(error, request_id)[0]
                service.log(request_id, SERVICE, status, started, reason=error.reason)
                seconds = (("retry-after", f"{max(error.retry_after_s, 0.001):.3f}"),)
                context.set_trailing_metadata(seconds)
                await context.abort(code, str(error))
                raise AssertionError("abort raises") from error
            except tuple(_CODES) as error:
                code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
                service.log(request_id, SERVICE, 400, started, reason=code.name.lower())
                await context.abort(code, str(error))
                raise AssertionError("abort raises") from error
            service.log(request_id, SERVICE, 200, started, items=len(answer.items))
            return messages.RecommendResponse(
                items=[
                    messages.Item(
                        item_id=item.item_id,
                        title=item.title,
                        sid=item.sid,
                        score=item.score,
                        rank=item.rank,
                    )
                    for item in answer.items
                ],
                rank_by=answer.rank_by,
                model_version=answer.model_version,
                catalogue_version=answer.catalogue_version,
                request_id=request_id,
                unknown=answer.unknown or [],
            )

    return Handler()


def _asked(request: Any, seconds_left: float | None) -> RecommendRequest:
    """Returns a request of the wire as a message, checked like one that came as JSON."""
    rules = [
        AllowRule(rule.column, rule.op, list(rule.texts) if "in" in rule.op else rule.number)
        for rule in request.allow
    ]
    message = RecommendRequest(
        history=list(request.history),
        user=request.user or None,
        num=request.num or None,
        exclude=list(request.exclude),
        allow=rules,
        rank_by=request.rank_by or None,
        exclude_seen=request.exclude_seen if request.HasField("exclude_seen") else None,
        sold_out=request.sold_out,
        unknown="skip" if request.skip_unknown else "error",
        # gRPC's own deadline; a client without one gets the server's.
        deadline_ms=None if seconds_left is None else 1e3 * min(seconds_left, 60.0),
    )
    if message.deadline_ms is not None and message.deadline_ms <= 0:
        raise LateError("the deadline has passed already")
    return msgspec.convert(msgspec.to_builtins(message), RecommendRequest)
