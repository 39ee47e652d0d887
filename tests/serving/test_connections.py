import asyncio
import json
import types

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from minirec.serving import connections
from minirec.serving.connections import connections_of, plain_head
from minirec.serving.engine import Engine
from minirec.serving.http import application
from minirec.serving.metrics import Metrics
from minirec.serving.service import MAX_BODY, Service
from tests.serving.small import TILE, SlowRecommender


@pytest.fixture(scope="module")
def service(world, tmp_path_factory):
    service = world.service(tmp_path_factory.mktemp("versions") / "serving", {})
    yield service
    service.engine.close()


def asked(body=b'{"history": ["i1"]}', *headers, line=b"POST /v1/recommend HTTP/1.1"):
    length = b"content-length: %d" % len(body)
    return b"\r\n".join([line, b"host: x", *headers, length, b"", body])


def answers(service, *pieces, hang_up=False, until=None, pause_s=0.0, most=None, protocol=None):
    """Returns (status, headers, body) of each answer to bytes that are sent in pieces."""

    async def story():
        door = types.SimpleNamespace(service=service)
        config = uvicorn.Config(application(service), lifespan="off", log_level="critical")
        config.load()
        kind, state = connections_of(door, protocol), ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: kind(config, state, {}, loop), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_s)
        if until is not None:
            await asyncio.to_thread(until)
        found = []
        if not hang_up:
            whole = b"".join(pieces)
            for _ in range(most or whole.count(b"HTTP/1.1\r\n")):
                found.append(await asyncio.wait_for(read_answer(reader), 60))
        writer.close()
        server.close()
        while state.connections:
            await asyncio.sleep(0.001)
        return found

    return asyncio.run(story())


async def read_answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    if headers.get("transfer-encoding") == "chunked":
        raise AssertionError("nothing here is sent in chunks")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers, body


def ids(answer):
    return [item["item_id"] for item in json.loads(answer[2])["items"]]


def chunked(body):
    line = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return line + chunk + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b'{"history": ["i1", "i2"], "num": 3}', b"{}", b'{"history": ["who"]}', b"[", b"",
        b'{"num": 0}', b"\xff", b"[" * 20_000,
    ],
)  # fmt: skip
def test_the_short_way_answers_as_the_usual_one_does(service, body):
    assert plain_head(asked(body)) is not None
    assert plain_head(chunked(body)) is None
    named = b"x-request-id: same"
    short, usual = answers(
        service, asked(body, named), chunked(body).replace(b"host: x", b"host: x\r\n" + named)
    )
    assert short[0] == usual[0]
    assert json.loads(short[2]) == json.loads(usual[2])
    assert set(short[1]) <= set(usual[1])


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_a_request_may_come_in_pieces(service, pieces):
    whole = asked()
    size = -(-len(whole) // pieces)
    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    ((status, _, _),) = answers(service, *parts, pause_s=0.005)
    assert status == 200


class Connection:
    """A connection whose loop's clock is moved by hand, and what it does with the transport."""

    def __init__(self, service, loop):
        self.loop, self.now, self.timers, self.is_closed = loop, 0.0, [], False
        config = uvicorn.Config(application(service), lifespan="off", timeout_keep_alive=75)
        config.load()
        door = types.SimpleNamespace(service=service)
        self.protocol = connections_of(door)(config, ServerState(), {}, self)
        self.protocol.connection_made(self)
        self.sent = []

    def call_later(self, seconds, callback):
        handle = types.SimpleNamespace(due=self.now + seconds, callback=callback)
        handle.cancel = lambda: self.timers.remove(handle) if handle in self.timers else None
        self.timers.append(handle)
        return handle

    def time(self):
        return self.now

    def call_soon(self, callback, *args, **options):
        return self.loop.call_soon(callback, *args, **options)

    def create_task(self, *args, **options):
        return self.loop.create_task(*args, **options)

    def write(self, data):
        self.sent.append(data)

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True

    def get_extra_info(self, name, default=None):
        return default

    def pause_reading(self):
        """Nothing."""

    resume_reading = pause_reading

    def go_on(self, seconds):
        """Moves the clock, and calls what is due."""
        self.now += seconds
        for handle in [handle for handle in self.timers if handle.due <= self.now]:
            self.timers.remove(handle)
            handle.callback()

    async def answered(self, data):
        before = len(self.sent)
        self.protocol.data_received(data)
        while not any(part.startswith(b"HTTP/1.1 200") for part in self.sent[before:]):
            await asyncio.sleep(0)
        for _ in range(5):  # uvicorn arms its timer behind the last bytes.
            await asyncio.sleep(0)


@pytest.mark.parametrize("first", [asked(), b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_connection_is_closed_once_it_asks_no_more_and_not_before(service, first):
    async def story():
        one = Connection(service, asyncio.get_running_loop())
        await one.answered(first)
        for _ in range(6):
            one.go_on(20.0)
            assert not one.is_closed
            await one.answered(asked())
        one.go_on(74.0)
        assert not one.is_closed
        one.go_on(74.0)
        assert one.is_closed

    asyncio.run(story())


def test_requests_behind_each_other_are_answered_in_their_order(service):
    sent = b""
    for number in range(40):
        if number % 5 == 3:
            sent += b"GET /v1/items/i1 HTTP/1.1\r\nhost: x\r\nx-request-id: n%d\r\n\r\n" % number
        elif number % 7 == 4:
            sent += asked(b'{"num": 0}', b"x-request-id: n%d" % number)
        else:
            sent += asked(b'{"history": ["i%d"]}' % number, b"x-request-id: n%d" % number)
    for pieces in ([sent], [sent[:100], sent[100:1000], sent[1000:]]):
        found = answers(service, *pieces, pause_s=0.002)
        assert [headers["x-request-id"] for _, headers, _ in found] == [
            f"n{number}" for number in range(40)
        ]
        assert ids(found[0]) == ids(answers(service, asked(b'{"history": ["i0"]}'))[0])
        assert found[4][0] == 400


@pytest.mark.parametrize(
    "odd",
    [
        asked(line=b"POST /v1/recommend HTTP/1.0"),
        asked(line=b"POST /v1/recommend?x=1 HTTP/1.1"),
        asked(line=b"GET /v1/recommend HTTP/1.1"),
        asked(b"{}", b"expect: 100-continue"),
        asked(b"{}", b"transfer-encoding: chunked"),
        asked(b"{}", b"connection: close"),
        asked(b"{}", b"content-length: 2"),
        asked(b"{}", b"content-length : 2"),
        asked(b"{}", b" folded"),
        asked(b"{}", b"no colon"),
        asked(b"{}", b"x: a\ntransfer-encoding: chunked"),
        asked(b"{}", b"x: a\rb"),
        asked(b"{}", b"x: a\0b"),
        asked(b"{}", b"x y: a"),
        asked(b"{}").replace(b"content-length: 2", b"content-length: +2"),
        asked(b"{}").replace(b"content-length: 2", b"content-length: %d" % (MAX_BODY + 1)),
        asked(b"{}").replace(b"content-length: 2\r\n", b""),
        asked(b"{}")[:-8],
    ],
)
def test_what_is_not_plain_goes_the_usual_way(odd):
    assert plain_head(odd) is None


@pytest.mark.parametrize("protocol", [None, H11Protocol])
def test_what_looks_like_a_request_inside_another_is_not_one(service, protocol):
    inner = asked(b'{"num": 0}')
    length = b"content-length: %d" % len(inner)
    outer = b"POST /nothing HTTP/1.1\r\nhost: x\r\n" + length + b"\r\n\r\n"
    behind = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    most = 2 if protocol is None else 1  # h11 does not read on behind a body that nobody read.
    found = answers(service, outer, inner, behind, pause_s=0.02, most=most, protocol=protocol)
    # Nothing of what stands inside is answered.
    assert [status for status, _, _ in found] == [404, 200][:most]
    header = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: "
    found = answers(service, header, asked(b"{}"), pause_s=0.02, most=1, protocol=protocol)
    # Two hosts: h11 refuses them.
    assert found[0][0] == (200 if protocol is None else 400)


@pytest.mark.parametrize("protocol", [None, H11Protocol])
def test_both_of_uvicorns_protocols_have_the_short_way(service, protocol):
    sent = asked(b'{"history": ["i1"]}', b"x-request-id: a") + b"GET /healthz HTTP/1.1\r\nhost: x"
    sent += b"\r\n\r\n" + asked(b'{"num": 0}', b"x-request-id: b")
    found = answers(service, sent, protocol=protocol)
    assert [status for status, _, _ in found] == [200, 200, 400]


def test_what_was_sent_behind_a_request_is_not_asked_once_the_client_has_gone(world):
    with Held(world) as held:
        engine = held.service.engine

        def waits():
            while not engine.num_waiting:
                pass

        sent = asked(b'{"history": ["i2"]}') + asked(b'{"history": ["i3"]}') * 20
        assert answers(held.service, sent, until=waits, hang_up=True) == []
        held.slow.go.set()
        assert engine.drain(60)
        searched = {tuple(history) for tile in held.slow.tiles for history in tile}
        assert (3,) not in searched


def test_an_answer_that_cannot_be_written_ends_as_an_error(service, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("played")

    monkeypatch.setattr("minirec.serving.service.to_message", broken)
    ((status, _, body),) = answers(service, asked())
    assert status == 500
    assert json.loads(body)["error"]["reason"] == "failed"


def test_a_body_that_does_not_come_is_given_up(service, monkeypatch):
    monkeypatch.setattr(connections, "HEADERS_S", 0.05)
    ((status, headers, body),) = answers(service, asked()[:-4])
    assert status == 408
    error = json.loads(body)["error"]
    assert (error["reason"], error["request_id"]) == ("timeout", headers["x-request-id"])


class Held:
    """A service whose tiles end when a test says so."""

    def __init__(self, world):
        self.slow = SlowRecommender()
        engine = Engine(self.slow, world.served(), exclude_seen=False)
        self.service = Service(engine, None, Metrics(TILE), {}.get)
        self.first = engine.submit(self.service.asked(connections.RecommendRequest()))
        assert self.slow.begun.acquire(timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.slow.go.set()
        self.service.engine.close()


def test_a_client_that_hangs_up_costs_no_search(world):
    with Held(world) as held:
        engine = held.service.engine

        def waits():
            while not engine.num_waiting:
                pass

        assert answers(held.service, asked(b'{"history": ["i2"]}'), until=waits, hang_up=True) == []
        held.slow.go.set()
        assert engine.drain(60)
        assert [[2]] not in held.slow.tiles


def test_a_client_hears_of_its_deadline_and_of_a_server_that_goes_down(world):
    with Held(world) as held:
        late, good = answers(
            held.service, asked(b'{"deadline_ms": 20}') + asked(b'{"deadline_ms": -1}')
        )
        assert late[0] == 504
        assert json.loads(late[2])["error"]["reason"] == "late"
        assert good[0] == 400
        held.slow.go.set()
        assert held.service.engine.drain(60)
        ((status, headers, _),) = answers(held.service, asked())
        assert (status, headers["retry-after"]) == (503, "1")
