import asyncio
import socket

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from starlette.testclient import TestClient

from minirec.serving.engine import Engine
from minirec.serving.grpc_service import PROTO, SERVICE, GrpcServer
from minirec.serving.http import application
from minirec.serving.metrics import Metrics
from minirec.serving.service import Service
from tests.ports import free_port
from tests.serving.small import TILE, SlowRecommender

messages, services = grpc.protos_and_services(PROTO)


@pytest.fixture
def service(world, engine):
    return Service(engine, None, Metrics(TILE), {"ann": ["i1", "i2"]}.get)


def with_server(service, story):
    """Runs a story with a stub of a server that answers."""

    async def run():
        address = f"127.0.0.1:{free_port()}"
        server = GrpcServer(service, address)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                return await story(services.RecommenderStub(channel), channel, address, server)
        finally:
            await server.stop(0)

    return asyncio.run(run())


def test_grpc_answers_as_http_does(service):
    async def story(stub, channel, address, server):
        request = messages.RecommendRequest(
            history=["i1", "i2"],
            num=4,
            exclude=["i9"],
            allow=[
                messages.AllowRule(column="colour", op="in", texts=["red"]),
                messages.AllowRule(column="price", op="<", number=50),
            ],
            request_id="seven",
        )
        return await stub.Recommend(request), await stub.Recommend(
            messages.RecommendRequest(user="ann")
        )

    answer, by_user = with_server(service, story)
    body = {
        "history": ["i1", "i2"],
        "num": 4,
        "exclude": ["i9"],
        "allow": [
            {"column": "colour", "op": "in", "value": ["red"]},
            {"column": "price", "op": "<", "value": 50},
        ],
    }
    with TestClient(application(service)) as client:
        expected = client.post("/v1/recommend", json=body).json()
        of_user = client.post("/v1/recommend", json={"user": "ann"}).json()
    got = [(item.item_id, item.title, item.sid, item.score, item.rank) for item in answer.items]
    assert got == [tuple(item.values()) for item in expected["items"]]
    assert answer.request_id == "seven"
    assert answer.catalogue_version == expected["catalogue_version"]
    assert [item.item_id for item in by_user.items] == [i["item_id"] for i in of_user["items"]]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"history": ["who"]}, "history[0]"),
        ({"num": 900}, "num"),
        ({"rank_by": "magic"}, "rank_by"),
        ({"num": 4000}, "num"),
        ({"user": "ann", "history": ["i1"]}, "user"),
        ({"allow": [messages.AllowRule(column="colour", op="is")]}, "op"),
    ],
)
def test_bad_input_is_an_invalid_argument_that_names_the_field(service, fields, says):
    async def story(stub, *_):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Recommend(messages.RecommendRequest(**fields))
        return error.value

    error = with_server(service, story)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert says in error.details()


def test_health_and_reflection_tell_what_is_there(service):
    async def story(stub, channel, address, server):
        health = health_pb2_grpc.HealthStub(channel)
        ask = health_pb2.HealthCheckRequest(service=SERVICE)
        before = (await health.Check(ask)).status

        def look():
            with grpc.insecure_channel(address) as plain:
                return ProtoReflectionDescriptorDatabase(plain).get_services()

        names = await asyncio.to_thread(look)
        await server.not_serving()
        return before, names, (await health.Check(ask)).status

    before, names, after = with_server(service, story)
    kinds = health_pb2.HealthCheckResponse
    assert (before, after) == (kinds.SERVING, kinds.NOT_SERVING)
    assert SERVICE in names


def test_refusals_and_deadlines_have_their_own_codes(world):
    slow = SlowRecommender()
    engine = Engine(slow, world.served(), exclude_seen=False, max_queue=1)

    async def story(stub, *_):
        flying = asyncio.ensure_future(stub.Recommend(messages.RecommendRequest()))
        while not slow.tiles:
            await asyncio.sleep(0.001)
        late = asyncio.ensure_future(stub.Recommend(messages.RecommendRequest(), timeout=30))
        while not engine.num_waiting:
            await asyncio.sleep(0.001)
        codes = []
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Recommend(messages.RecommendRequest())
        codes.append(error.value.code())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Recommend(messages.RecommendRequest(), timeout=-1)
        codes.append(error.value.code())
        slow.go.set()
        await asyncio.gather(flying, late)
        await asyncio.to_thread(engine.drain)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Recommend(messages.RecommendRequest())
        return [*codes, error.value.code()]

    codes = with_server(Service(engine, None, Metrics(TILE), {}.get), story)
    slow.go.set()
    engine.close()
    assert codes == [
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
    ]


def test_an_address_that_is_taken_is_said(service):
    async def run():
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            bound.listen()
            GrpcServer(service, f"127.0.0.1:{bound.getsockname()[1]}")

    with pytest.raises(OSError, match="cannot be had"):
        asyncio.run(run())
