import asyncio
import json

import pytest
from starlette.testclient import TestClient

from minirec.serving.admin import admin_application
from minirec.serving.engine import Engine
from minirec.serving.http import application
from minirec.serving.look_ups import SIMILAR
from minirec.serving.metrics import Metrics
from minirec.serving.server import Addresses
from minirec.serving.service import MAX_BODY, Service
from tests.serving.small import BEAMS, NUM_ITEMS, TILE, SlowRecommender

USERS = {"ann": ["i1", "i2", "gone"], "bob": []}


@pytest.fixture(scope="module")
def service(world, tmp_path_factory):
    service = world.service(tmp_path_factory.mktemp("versions") / "serving", USERS)
    yield service
    service.engine.close()


@pytest.fixture(scope="module")
def client(service):
    with TestClient(application(service)) as client:
        yield client


@pytest.fixture(scope="module")
def admin(service):
    with TestClient(admin_application(service, "secret")) as client:
        client.headers["authorization"] = "Bearer secret"
        yield client


def error_of(response):
    error = response.json()["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    return response.status_code, error["reason"], error.get("field")


def test_recommend_answers_with_items_and_versions(client, world):
    response = client.post("/v1/recommend", json={"history": ["i1", "i2"], "num": 3})
    assert response.status_code == 200
    answer = response.json()
    assert [item["rank"] for item in answer["items"]] == [0, 1, 2]
    for item in answer["items"]:
        assert set(item) == {"item_id", "title", "sid", "score", "rank"}
        assert item["title"] == world.titles[int(item["item_id"][1:])]
        assert item["sid"].startswith("<a_")
    assert answer["model_version"] == "world@1"
    assert answer["catalogue_version"] == "1.0"
    assert answer["request_id"] == response.headers["x-request-id"]


def test_a_client_may_name_its_request(client):
    named = client.post("/v1/recommend", json={}, headers={"x-request-id": "order-7.a"})
    assert named.json()["request_id"] == "order-7.a"
    odd = client.post("/v1/recommend", json={}, headers={"x-request-id": "a b\t"})
    assert len(odd.json()["request_id"]) == 32


def test_an_explanation_says_why_and_shows_the_beams(client):
    answer = client.post("/v1/recommend", json={"history": ["i1"], "explain": True}).json()
    assert [len(level["sids"]) for level in answer["beams"]] == [BEAMS] * 3
    assert answer["beams"][1]["sids"][0].startswith("<a_")
    for item in answer["items"]:
        assert item["sources"]
        assert item["why"]
    assert set(answer["milliseconds"]) == {"queued", "searched"}


def test_a_user_of_the_log_stands_for_a_history(client):
    by_user = client.post("/v1/recommend", json={"user": "ann"}).json()
    by_history = client.post("/v1/recommend", json={"history": ["i1", "i2"]}).json()
    assert by_user["items"] == by_history["items"]
    assert by_user["unknown"] == ["gone"]
    assert client.post("/v1/recommend", json={"user": "bob"}).status_code == 200


def test_a_batch_answers_each_by_itself(client):
    requests = [{"history": ["i1"]}, {"history": ["who"]}, {"history": ["i2"], "num": 2}]
    answers = client.post("/v1/recommend:batch", json={"requests": requests}).json()["answers"]
    alone = client.post("/v1/recommend", json=requests[0]).json()
    assert answers[0]["answer"]["items"] == alone["items"]
    assert answers[1]["error"]["field"] == "history[0]"
    assert len(answers[2]["answer"]["items"]) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"history": ["who"]}', "history[0]"),
        (b'{"history": [3]}', "history[0]"),
        (b'{"history": "i1"}', "history"),
        (b'{"histori": []}', None),
        (b'{"num": 0}', "num"),
        (b'{"num": 1e3}', "num"),
        (b'{"num": 900}', "num"),
        (b'{"rank_by": "magic"}', "rank_by"),
        (b'{"deadline_ms": -1}', "deadline_ms"),
        (b'{"deadline_ms": NaN}', None),
        (b'{"user": "nobody"}', "user"),
        (b'{"user": "ann", "history": ["i1"]}', "user"),
        (b'{"unknown": "guess"}', "unknown"),
        (b'{"allow": [{"column": "colour", "op": "is", "value": "red"}]}', "allow[0].op"),
        (b'{"allow": [{"column": "size", "op": "in", "value": "L"}]}', "allow[0].column"),
        (b'{"allow": [{"column": "price", "op": "<", "value": "3"}]}', "allow[0].value"),
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", None),
        (b'{"history": ["\xf0\x28\x8c\x28"]}', None),
        (b'{"history": ["\\ud800"]}', None),
    ],
)
def test_bad_input_is_a_clear_400(client, body, field):
    status, reason, named = error_of(client.post("/v1/recommend", content=body))
    assert (status, reason) == (400, "bad_request")
    if field is not None:
        assert named == field


def test_a_body_that_is_too_large_is_refused(client):
    big = b" " * (MAX_BODY + 1)
    assert error_of(client.post("/v1/recommend", content=big))[:2] == (413, "too_large")

    def pieces():
        for _ in range(40):
            yield b" " * 10_000

    assert error_of(client.post("/v1/recommend", content=pieces()))[:2] == (413, "too_large")


def test_unknown_ids_may_be_skipped(client):
    body = {"history": ["i1", "who"], "exclude": ["i2", "whom"], "unknown": "skip"}
    assert client.post("/v1/recommend", json=body).json()["unknown"] == ["who", "whom"]


def test_items_are_found_by_the_words_of_their_titles(client):
    found = client.get("/v1/items", params={"q": "Oak la"}).json()["items"]
    assert found
    assert all("oak lamp" in item["title"] for item in found)
    assert found[0]["attributes"]["colour"] == ["red"]
    assert client.get("/v1/items", params={"q": '"; drop -- * NEAR('}).json()["items"] == []
    assert client.get("/v1/items").json()["items"] == []
    assert error_of(client.get("/v1/items?q=oak&num=x")) == (400, "bad_request", "num")


def test_an_item_is_told_of_by_its_id(client, world):
    item = client.get("/v1/items/i7").json()
    assert item["title"] == world.titles[7]
    assert (item["listed"], item["in_stock"]) == (True, True)
    assert error_of(client.get("/v1/items/who"))[0] == 404
    assert error_of(client.get("/v1/items/a%2Fb"))[0] == 404


@pytest.mark.parametrize("by", SIMILAR)
def test_similar_items_are_the_best_first_and_never_the_item_itself(client, by):
    answer = client.get("/v1/similar/i4", params={"by": by, "num": 5}).json()
    scores = [item["score"] for item in answer["items"]]
    assert scores
    assert scores == sorted(scores, reverse=True)
    assert "i4" not in [item["item_id"] for item in answer["items"]]
    assert answer["by"] == by


def test_similar_refuses_what_it_does_not_know(client):
    assert error_of(client.get("/v1/similar/i4?by=luck")) == (400, "bad_request", "by")
    assert error_of(client.get("/v1/similar/who"))[0] == 404


def test_status_health_and_pages(client):
    status = client.get("/v1/status").json()
    assert status["ready"]
    assert status["num_items"] == NUM_ITEMS
    assert status["rank_by"] == ["system", "model", "model_head", "item_head"]
    assert client.get("/healthz").text == "ok\n"
    assert client.get("/readyz").text == "ready\n"
    assert client.get("/openapi.json").json()["openapi"].startswith("3.1")
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name, kind in (("main.js", "text/javascript"), ("style.css", "text/css")):
        assert client.get(f"/page/{name}").headers["content-type"].startswith(kind)
    assert client.get("/page/..%2Fhttp.py").status_code == 404
    assert client.get("/page/none.js").status_code == 404
    assert error_of_plain(client.get("/nothing")) == (404, "not_found")
    assert error_of_plain(client.get("/v1/recommend")) == (405, "method_not_allowed")


def error_of_plain(response):
    return response.status_code, response.json()["error"]["reason"]


def metric(client, name):
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    return 0.0


def test_metrics_count_what_happens(client):
    answered = metric(client, 'minirec_answered_total{rank_by="model"}')
    refused = metric(client, 'minirec_refused_total{reason="bad_request"}')
    compiled = metric(client, "minirec_compilations")
    client.post("/v1/recommend", json={"rank_by": "model"})
    client.post("/v1/recommend", json={"history": ["who"]})
    assert metric(client, 'minirec_answered_total{rank_by="model"}') == answered + 1
    assert metric(client, 'minirec_refused_total{reason="bad_request"}') == refused + 1
    assert metric(client, "minirec_compilations") == compiled > 0
    assert metric(client, "minirec_invalid_items_total") == 0
    assert metric(client, 'minirec_request_seconds_count{phase="all"}') > 0


def test_admins_change_the_catalogue_and_the_stock(client, admin):
    def first():
        answer = client.post("/v1/recommend", json={"history": ["i1"]}).json()
        return [item["item_id"] for item in answer["items"]]

    before = first()
    changed = admin.post("/admin/catalogue", json={"withdraw": before[:1]})
    assert changed.json()["num_listed"] == NUM_ITEMS - 1
    assert before[0] not in first()
    assert not client.get(f"/v1/items/{before[0]}").json()["listed"]
    assert admin.post("/admin/stock", json={"out": [before[1]]}).status_code == 200
    assert before[1] not in first()
    assert admin.post("/admin/stock", json={"back": [before[1]]}).status_code == 200
    assert admin.post("/admin/catalogue/rollback").status_code == 200
    assert first() == before
    assert admin.post("/admin/model", json={"run": "other"}).json()["model_version"] == "world@2"
    assert metric(client, 'minirec_model{version="world@2"}') == 1
    assert admin.post("/admin/model", json={}).status_code == 200


def test_what_admins_cannot_have_changes_nothing(client, admin):
    before = client.get("/v1/status").json()["catalogue_version"]
    for route, body, status in (
        ("/admin/catalogue", {"withdraw": ["who"]}, 422),
        ("/admin/catalogue", {"sids": "/no/such/file.json"}, 422),
        ("/admin/catalogue", {"remove": ["i1"]}, 400),
        ("/admin/catalogue/rollback", {}, 422),
        ("/admin/stock", {"out": ["who"]}, 422),
        ("/admin/model", {"run": "nobody"}, 422),
    ):
        assert admin.post(route, json=body).status_code == status, route
    assert client.get("/v1/status").json()["catalogue_version"] == before
    wrong = admin.post("/admin/stock", json={}, headers={"authorization": "Bearer wrong"})
    assert error_of(wrong)[:2] == (401, "unauthorized")
    assert error_of(admin.post("/admin/stock", json={}, headers={"authorization": ""}))[0] == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://shop.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "none"}, 200),
        ({"host": "rebound.example:8002"}, 403),
        ({"host": "127.0.0.1:8002"}, 200),
        ({"host": "[::1]:8002"}, 200),
    ],
)
def test_a_page_in_a_browser_changes_nothing(service, headers, status):
    with TestClient(admin_application(service, None), "http://localhost:8002") as client:
        assert client.post("/admin/stock", content=b"{}", headers=headers).status_code == status


def test_a_client_hears_of_its_deadline_while_a_tile_is_under_way(world):
    with Held(world) as held:

        async def story():
            return await post(application(held.service), {"deadline_ms": 30})

        status, _, body = asyncio.run(story())
        assert status == 504
        assert json.loads(body)["error"]["reason"] == "late"


def test_an_admin_address_that_others_reach_needs_a_token():
    with pytest.raises(ValueError, match="MINIREC_ADMIN_TOKEN"):
        Addresses(admin_host="0.0.0.0", admin_port=9000)
    Addresses(admin_host="0.0.0.0", admin_port=9000, admin_token="secret")
    Addresses(admin_host="127.0.0.2", admin_port=9000)
    with pytest.raises(ValueError, match="none listens"):
        Addresses(http_port=0)
    with pytest.raises(ValueError, match="each must be another"):
        Addresses(http_port=80, grpc_port=80)


class Held:
    """A service whose tiles end when a test says so."""

    def __init__(self, world, **options):
        self.slow = SlowRecommender()
        engine = Engine(self.slow, world.served(), exclude_seen=False, **options)
        self.service = Service(engine, None, Metrics(TILE), USERS.get)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.slow.go.set()
        self.service.engine.close()

    async def fly(self, asked):
        """Lets a tile be under way, beside which no other begins for less than a tile."""
        flying = asyncio.create_task(post(asked, {"deadline_ms": 59_000}))
        while not self.slow.tiles:
            await asyncio.sleep(0.001)
        return flying


async def post(application, body, *, hang_up=None):
    """Sends a request as a server does, and returns status, headers and body."""
    sent = []
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive():
        if messages:
            return messages.pop(0)
        await (hang_up or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/recommend", "raw_path": b"/v1/recommend",
        "query_string": b"", "headers": [], "http_version": "1.1", "scheme": "http",
        "root_path": "", "server": ("x", 1), "client": ("y", 2),
    }  # fmt: skip
    await application(scope, receive, send)
    if not sent:
        return None
    return sent[0]["status"], dict(sent[0]["headers"]), sent[-1]["body"]


def test_refusals_and_lateness_have_their_own_status(world):
    with Held(world, max_queue=1) as held:
        engine = held.service.engine
        for _ in range(20):
            engine.admission.tile_done(3.0, 3.0)

        async def story():
            asked = application(held.service)
            flying = await held.fly(asked)
            waiting = asyncio.create_task(post(asked, {"deadline_ms": 1}))
            while not engine.num_waiting:
                await asyncio.sleep(0.001)
            refused = await post(asked, {})
            held.slow.go.set()
            return await flying, refused, await waiting

        answered, refused, late = asyncio.run(story())
        assert answered[0] == 200
        assert refused[0] == 429
        assert int(refused[1][b"retry-after"]) >= 3
        assert json.loads(refused[2])["error"]["reason"] == "queue_full"
        assert late[0] == 504
        engine.drain(60)
        assert asyncio.run(post(application(held.service), {}))[0] == 503


def test_a_client_that_hangs_up_costs_no_search(world):
    with Held(world) as held:

        async def story():
            asked, hang_up = application(held.service), asyncio.Event()
            flying = await held.fly(asked)
            gone = asyncio.create_task(post(asked, {"history": ["i2"]}, hang_up=hang_up))
            while not held.service.engine.num_waiting:
                await asyncio.sleep(0.001)
            hang_up.set()
            assert (await gone)[0] == 499
            held.slow.go.set()
            await flying

        asyncio.run(story())
        assert held.service.engine.drain(60)
        assert [[2]] not in held.slow.tiles
