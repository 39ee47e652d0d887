"""A feed's services: over HTTP and gRPC, in one process and in several."""

import asyncio
import json
import math
import signal
import subprocess
import sys
import threading
import types

import grpc
import numpy as np
import pytest

from launch.wiring import feed_server
from launch.wiring.feed_server import Asked
from launch.wiring.program import UsageError
from minirec.recommend.feed.live import PastEvents
from minirec.serving.feed.clients import RemoteEvents, RemoteRanker, RemoteTowers, Replicas
from minirec.serving.feed.workers import Workers
from minirec.serving.refusals import LateError, RefusedError
from tests.launch.feed_world import Served, items, prepared_job, untrained, with_workdir
from tests.ports import free_port


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    with untrained():
        yield prepared_job(tmp_path_factory.mktemp("feed_server"))


@pytest.fixture(scope="module")
def shop(job, tmp_path_factory):
    """All of a feed in this process."""
    mine = with_workdir(job, tmp_path_factory.mktemp("all") / "w")
    served = Served(feed_server.services_of(mine, Asked(deadline_s=60.0)))
    yield served
    served.close()


def event(user, action, item=None, **more):
    return {"user": user, "action": action} | ({} if item is None else {"item": item}) | more


def send(shop, *events):
    status, answer = shop.ask("/v1/events", {"events": list(events)})
    assert (status, answer["malformed"]) == (200, []), answer


def test_an_answer_explains_each_place_and_says_what_every_component_did(shop):
    answer = shop.feed(explain=True, num=5)
    assert (answer["ranked_by"], answer["degraded"]) == ("ranker", [])
    assert len(items(answer)) == len(set(items(answer))) == 5
    weights = shop.services.weights
    for place, item in enumerate(answer["items"]):
        why = item["why"]
        assert (item["rank"], bool(why["sources"])) == (place, True)
        for action, probability in why["probabilities"].items():
            part = weights[action] * probability
            assert why["parts"][action] == pytest.approx(part, abs=1e-5)
        assert {"out_of_network", "diversity", "freshness"} <= why["factors"].keys()
    told = {(step["stage"], step["component"]) for step in answer["steps"]}
    wired = shop.ask("/v1/status")[1]["components"]
    every = {(stage, name) for stage, names in wired.items() for name in names}
    assert told == {pair for pair in every if pair[0] != "side_effects"}
    assert "why" not in shop.feed()["items"][0]
    assert len(items(shop.feed())) == 12


def test_an_event_changes_the_feed_and_is_kept(shop, job):
    user = "somebody new"
    before = shop.feed(user, num=100)
    assert shop.ask(f"/v1/events?user={user.replace(' ', '%20')}")[1]["events"] == []
    raw = shop.services.shop.raw_item_ids[42]
    send(shop, event(user, "view", raw), event(user, "view", raw))
    after = shop.feed(user, explain=True, num=100)
    assert items(after) != items(before)
    named = {step["component"]: step["left"] for step in after["steps"]}
    assert (named["Recency"], named["TwoTower"]) == (1, 200)
    found = shop.ask("/v1/events?user=somebody%20new&num=1")[1]["events"]
    assert [(one["item_id"], one["action"]) for one in found] == [(raw, "view")]
    # What is bought is not offered again; what is blocked or sold out is not offered at all.
    send(shop, event(user, "transaction", raw))
    assert raw not in items(shop.feed(user, num=100))
    first = shop.feed(user)["items"][0]
    send(shop, event(user, "block", brand=first["brand"]))
    assert first["brand"] not in {one["brand"] for one in shop.feed(user, num=100)["items"]}
    second = shop.feed(user)["items"][0]
    send(shop, {"action": "out_of_stock", "item": second["item_id"]})
    assert second["item_id"] not in items(shop.feed(user, num=100))
    told = shop.feed(user, explain=True)["removed"]
    assert "Blocked(brand)" in told
    send(shop, {"action": "back_in_stock", "item": second["item_id"]})


def test_ids_may_come_as_numbers(shop):
    send(shop, {"user": 7, "action": "view", "item": shop.services.shop.raw_item_ids[3]})
    send(shop, {"user": "7", "action": "follow", "brand": 12})
    told = shop.ask("/v1/events?user=7")[1]
    assert [one["item_id"] for one in told["events"]] == [shop.services.shop.raw_item_ids[3]]


def test_a_replica_that_failed_is_asked_again_after_a_while(monkeypatch):
    seconds, asked = [0.0], []
    replicas = Replicas("EventsService", ["a:1", "b:1"], 1.0, clock=lambda: seconds[0])

    class Failed(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.UNAVAILABLE

        def details(self):
            return "away"

    def stub(name):
        def method(request, timeout):
            asked.append(name)
            if name == "a" and seconds[0] == 0.0:
                raise Failed
            return name

        return types.SimpleNamespace(Ask=method)

    monkeypatch.setattr(replicas, "_stubs", [stub("a"), stub("b")])
    assert {replicas.call("Ask", None) for _ in range(6)} == {"b"}
    assert asked.count("a") == 1
    seconds[0] = 60.0
    assert {replicas.call("Ask", None) for _ in range(6)} == {"a", "b"}
    replicas.close()


def test_new_items_of_a_followed_brand_are_in_the_network(shop):
    sold = shop.services.shop
    item = next(item for item in range(len(sold.keys)) if sold.brand[item] == 2)
    raw, brand = sold.raw_item_ids[item], sold.brands[2]
    send(shop, event("fan", "follow", brand=brand), {"action": "listed", "item": raw})
    found = {one["item_id"]: one["why"] for one in shop.feed("fan", num=100, explain=True)["items"]}
    assert {"InNetwork", "NewItems"} <= set(found[raw]["sources"])
    assert "in_network" in found[raw]["marks"]
    told = shop.ask("/v1/events?user=fan")[1]
    assert (told["followed"], told["blocked"]) == ([brand], [])


def test_requests_weigh_filter_and_repeat(shop):
    plain = shop.feed("u000002")
    assert items(shop.feed("u000002")) == items(plain)
    only = shop.feed("u000002", weights={"view": 0, "addtocart": 0, "transaction": 0}, num=3)
    assert {item["score"] for item in only["items"]} == {0.0}
    dear = shop.feed("u000002", price_from=60.0)["items"]
    assert dear
    assert all(item["price"] >= 60 for item in dear)
    seen = items(plain)[:3]
    assert not set(seen) & set(items(shop.feed("u000002", seen_items=seen, num=100)))
    shop.services.pipeline.flush()
    assert not set(items(plain)) & set(items(shop.feed("u000002", leave_out_served=True)))
    title = plain["items"][0]["title"].split()[0]
    titles = [item["title"] for item in shop.feed("u000002", muted_words=[title])["items"]]
    assert all(title not in one for one in titles)
    body = {"user": "u000003", "deadline_ms": 60_000}
    one = shop.ask("/v1/feed", body, **{"x-request-id": "again"})[1]
    shop.services.pipeline.flush()
    send(shop, event("u000003", "view", items(one)[4]))
    two = shop.ask("/v1/feed", body, **{"x-request-id": "again"})[1]
    assert two["items"] == one["items"]


@pytest.mark.parametrize(
    ("route", "body", "status", "field"),
    [
        ("/v1/feed", "{", 400, None),
        ("/v1/feed", {}, 400, None),
        ("/v1/feed", {"user": "a", "num": 101}, 400, "num"),
        ("/v1/feed", {"user": "a", "weights": {"rent": 1}}, 400, "weights"),
        ("/v1/feed", {"user": "a", "weights": {"view": 1e99}}, 400, "weights[...]"),
        ("/v1/feed", {"user": "a", "colour": 1}, 400, None),
        ("/v1/events", {"events": []}, 400, "events"),
        ("/v1/events?num=0&user=a", None, 400, "num"),
        ("/v1/events", None, 400, "user"),
        ("/v1/nothing", None, 404, None),
    ],
)
def test_what_cannot_be_is_named(shop, route, body, status, field):
    got, answer = shop.ask(route, body)
    assert got == status
    assert answer["error"].get("field") == field
    assert answer["error"]["message"]


def test_what_is_no_event_is_told_and_the_others_are_kept(shop):
    events = [event("eve", "view", "i00001"), event("eve", "look", "i1"), {"user": "eve"}]
    status, answer = shop.ask("/v1/events", {"events": events})
    assert (status, answer["accepted"]) == (200, 1)
    assert [wrong["place"] for wrong in answer["malformed"]] == [1, 2]
    assert "action is 'look'" in answer["malformed"][0]["reason"]
    assert len(shop.ask("/v1/events?user=eve")[1]["events"]) == 1


def test_metrics_and_pages_are_there(shop):
    shop.feed()
    text = shop.ask("/metrics")[1]
    assert 'minirec_feed_answers_total{ranked_by="ranker"}' in text
    assert 'minirec_feed_component_seconds_count{component="Ranker",stage="scorers"}' in text
    assert shop.ask("/healthz") == (200, "ok\n")
    assert shop.ask("/readyz")[0] == 200
    assert "<!doctype html>" in shop.ask("/")[1].lower()
    assert shop.ask("/page/none.js")[0] == 404


PAST = PastEvents.of([3, 9, 3], [0, 1, 0], [100.0, 160.0, 161.0])


def test_what_comes_over_the_wire_is_what_is_said_here(shop):
    services = shop.services
    ranked = Replicas("RankingService", [shop.address], 60.0)
    remote = RemoteRanker(ranked, services.shop, services.actions)
    some = np.array([5, 9, 200, 17])
    here = services.ranker.probabilities(PAST, some, 500.0)
    np.testing.assert_allclose(remote.probabilities(PAST, some, 500.0), here, rtol=1e-6)
    request = ranked.messages.ScoreRequest(candidates=["nothing"], now_ms=1)
    with pytest.raises(ValueError, match=r"candidates\[0\]: no item 'nothing' is known"):
        ranked.call("Score", request)
    towers = RemoteTowers(
        Replicas("RetrievalService", [shop.address], 60.0), services.shop, services.actions
    )
    for one, other in zip(
        towers.find(PAST, 7, 0.0), services.towers.find(PAST, 7, 0.0), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_allclose(towers.vectors(some), services.towers.vectors(some), rtol=1e-6)
    events = RemoteEvents(Replicas("EventsService", [shop.address], 60.0))
    message = {"event_id": "g1", "user": "greta", "action": "view", "item": "i00004"}
    message["time_ms"] = round(services.clock() * 1e3)
    done = events.append([json.dumps(message).encode(), b"[]"], 30.0)
    assert (done.accepted, list(done.malformed)) == (1, [1])
    for name, arguments in (
        ("history", ("greta", 5)), ("relations", ("fan",)), ("in_network", ("fan", 5)),
        ("new_items", (5,)),
    ):  # fmt: skip
        mine, theirs = getattr(services.events, name)(*arguments), getattr(events, name)(*arguments)
        assert {k: v.tolist() for k, v in mine.items()} == {
            k: v.tolist() for k, v in theirs.items()
        }
    assert events.available(services.shop.keys[:3]).tolist() == [True] * 3
    activity, mine = events.activity(), services.events.activity()
    assert activity["count"].tolist() == mine["count"].tolist()
    feeds = Replicas("FeedService", [shop.address], 60.0)
    asked = feeds.messages.FeedRequest(user="u000005", num=4, explain=True)
    answer = feeds.call("ScoredItems", asked)
    assert [one.item_id for one in answer.items] == items(shop.feed("u000005", num=4))
    assert answer.items[0].probabilities.keys() == set(services.actions)
    with pytest.raises(ValueError, match="num"):
        feeds.call("ScoredItems", feeds.messages.FeedRequest(user="u", num=500))


def test_parts_fail_alone_and_come_back(job, shop, tmp_path):
    """A feed whose ranker and store are elsewhere: what is away is named, and the rest answers."""
    mine = with_workdir(job, tmp_path / "store")
    store = Served(feed_server.services_of(mine, Asked(role="store", deadline_s=60.0)))
    nobody, port = f"127.0.0.1:{free_port()}", store.grpc_port
    asked = Asked(
        role="feed", deadline_s=60.0, store_at=[store.address], retrieval_at=[shop.address],
        ranker_at=[nobody, shop.address],
    )  # fmt: skip
    feed = Served(feed_server.services_of(with_workdir(job, tmp_path / "feed"), asked))
    try:
        send(feed, event("u000009", "view", "i00011"))
        whole = feed.feed("u000009")  # One of two rankers is enough.
        assert (whole["ranked_by"], whole["degraded"]) == ("ranker", [])
        assert items(whole)
        replicas = feed.services.pipeline._stages["scorers"][0]._ranker._replicas
        stubs = list(replicas._stubs)
        replicas._stubs[1] = stubs[0]
        alone = feed.feed("u000009")
        assert (alone["ranked_by"], alone["degraded"]) == ("retrieval", ["Ranker"])
        assert len(items(alone)) == 12
        replicas._stubs[1] = stubs[1]
        assert items(feed.feed("u000009")) == items(whole)
        store.close()
        away = feed.feed("u000009")
        assert away["ranked_by"] == "ranker"
        assert {"InNetwork", "NewItems"} <= set(away["degraded"])
        assert len(items(away)) == 12
        lost = event("u000009", "view", "i00012", event_id="once")
        status, answer = feed.ask("/v1/events", {"events": [lost]})
        assert (status, answer["error"]["reason"]) == (503, "unavailable")
        services = feed_server.services_of(mine, Asked(role="store", deadline_s=60.0))
        store = Served(services, grpc_port=port)
        for _ in range(100):  # Connections come back within a second.
            if feed.ask("/v1/events", {"events": [lost]})[0] == 200:
                break
        found = feed.ask("/v1/events?user=u000009&num=2")[1]["events"]
        assert [one["item_id"] for one in found] == ["i00012", "i00011"]
        back = feed.feed("u000009")
        assert back["degraded"] == []
    finally:
        feed.close()
        store.close()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"role": "king"}, "--role=king"),
        ({"role": "feed", "ranker_at": ["x:1"]}, "--retrieval_at=HOST:PORT"),
        ({"role": "store", "ranker_at": ["x:1"]}, "--role=store asks nobody"),
        ({"role": "ranker", "kafka": "x:1"}, "--kafka"),
        ({"role": "all", "store_at": ["x:1", "y:1"]}, "--store_at=x:1,y:1: one store alone"),
    ],
)
def test_roles_that_cannot_be_are_named(fields, said):
    with pytest.raises(UsageError, match=said):
        Asked(**fields)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("feed.brand", "maker", "no item has such an attribute"),
        ("feed.price", "weight", "no such column"),
        ("feed.purchase", "order", "the log has the event types view, addtocart"),
        ("feed.weights", "view=x", "not TYPE=WEIGHT"),
        ("feed.weights", "rent=1", "not TYPE=WEIGHT"),
        ("feed.num_shown", 0, "num_shown=0"),
        ("feed.most_shown", 5, r"config\.feed\.most_shown=5: must lie in \[num_shown="),
        ("feed.budget_ms", 0.0, r"config\.feed\.budget_ms=0\.0: .* above 0"),
        ("feed.repurchase_days", -1.0, r"config\.feed\.repurchase_days=-1\.0"),
        ("feed.out_of_network", math.nan, r"config\.feed\.out_of_network=nan"),
        ("feed.store.snapshot_every", 0, r"config\.feed\.store\.snapshot_every=0"),
        ("feed.store.max_events", 0, r"config\.feed\.store: max_events=0"),
    ],
)
def test_settings_of_a_feed_that_cannot_be_are_named(job, tmp_path, field, value, said):
    config = job.config.copy_and_resolve_references()
    config.update_from_flattened_dict({field: value})
    mine = with_workdir(job, tmp_path / "w")
    with pytest.raises(ValueError, match=said):
        feed_server.services_of(
            type(mine)(config, mine.workdir, mine.run), Asked(role="store", deadline_s=1.0)
        )


def test_work_is_done_before_its_deadline_or_not_at_all():
    async def main():
        workers, go, done = Workers(1, max_queue=2, deadline_s=60.0), threading.Event(), []
        first = asyncio.ensure_future(workers.run(go.wait))
        while not workers.num_running:
            await asyncio.sleep(0)
        late = asyncio.ensure_future(workers.run(lambda: done.append("late"), 0.01))
        with pytest.raises(LateError):
            await late
        second = asyncio.ensure_future(workers.run(lambda: done.append("second")))
        third = asyncio.ensure_future(workers.run(lambda: done.append("third")))
        while workers.num_waiting < 2:
            await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="wait already"):
            await workers.run(lambda: None)
        go.set()
        await asyncio.gather(first, second, third)
        assert done == ["second", "third"]
        await asyncio.to_thread(workers.drain, 10.0)
        with pytest.raises(RefusedError, match="about to end"):
            await workers.run(lambda: None)
        with pytest.raises(ValueError, match="number=0"):
            Workers(0)
        workers.close()

    asyncio.run(main())


def test_the_command_trains_serves_and_drains(tmp_path):
    port = free_port()
    command = [
        sys.executable, "-m", "launch.feed", "--config=feed_quickstart:smoke",
        f"--workdir={tmp_path}", f"--http_port={port}", "--grpc_port=0",
        "--config.train.num_steps=2", "--config.train.eval_every=2",
        "--config.train.checkpoint_every=2", "--config.train.log_every=1",
        "--config.train.warmup_steps=0", "--config.evaluate.valid_users=8",
    ]  # fmt: skip
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
        try:
            lines = iter(process.stdout.readline, "")
            ready = next((line for line in lines if line.startswith("{")), "")
            assert ready, (tmp_path / "err").read_text()
            assert json.loads(ready)["model"] == "feed_quickstart_smoke@2"
            asking = Served.__new__(Served)
            asking.port = port
            assert len(items(asking.feed(num=3))) == 3
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, (tmp_path / "err").read_text()
