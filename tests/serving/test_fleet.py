"""Replicas behind a front, played in one process: each is whole, and may end at any call."""

import asyncio
import dataclasses
import json
import types

import httpx
import msgspec
import pytest

from minirec.serving.admin import admin_application
from minirec.serving.fleet import Fleet, key_of
from minirec.serving.front import Front, admins, clients
from minirec.serving.http import application
from minirec.serving.messages import RecommendRequest
from minirec.serving.metrics import Metrics
from minirec.serving.refusals import RefusedError
from minirec.serving.replica import Replica
from minirec.serving.service import Service
from minirec.serving.shared_versions import SharedVersions
from minirec.serving.versions import Change, Versions
from minirec.serving.wire import Failure, Pin, ReplicaLostError
from tests.serving.small import TILE, World

ASKED = [{"history": [f"i{place}", f"i{place + 9}"], "num": 5} for place in range(8)]


class Played:
    """Replicas with an engine in common, each with its own hold of the versions on one disk."""

    def __init__(self, world, engine, folder, count=2):
        self._world, self._engine, self._folder = world, engine, folder
        self.living, self._started, self.before, self.calls = {}, 0, {}, []
        for _ in range(count):
            self.start()

    def start(self, world=None):
        """Starts one more, which reads what lies on the disk, and returns its name."""
        world = world or self._world
        versions = SharedVersions(self._folder, world, world.served(), world.listing, "session")
        metrics = Metrics(TILE)
        metrics.watch(self._engine)
        service = Service(self._engine, versions, metrics, {"ann": ["i1", "i2"]}.get)
        self._started += 1
        name = f"r{self._started}"
        self.living[name] = (Replica(name, service, versions), versions)
        return name

    def versions(self, name):
        return self.living[name][1]

    def end(self, name):
        del self.living[name]

    async def one(self, key, method, *args):
        if not self.living:
            raise ReplicaLostError("none lives")
        names = sorted(self.living)
        # The same for the same key; not what the router of a cluster does, and as good here.
        return await self._call(names[len(key) % len(names)], method, *args)

    async def every(self, method, *args):
        if not self.living:
            raise ReplicaLostError("none lives")
        results = []
        for name in sorted(self.living):
            try:
                results.append(await self._call(name, method, *args))
            except ReplicaLostError as error:
                results.append(error)
        return results

    async def _call(self, name, method, *args):
        self.calls.append((name, method))
        if action := self.before.pop((name, method), None):
            given = action()
            if given is not None:
                return given
        if name not in self.living:
            raise ReplicaLostError(name)
        return await self.living[name][0].call(method, *args)


@pytest.fixture
def played(world, engine, tmp_path):
    return Played(world, engine, tmp_path / "serving")


def release_of(versions):
    return versions.standing().release


async def items(fleet, asked, pin=None):
    """What the fleet recommends, with the version that it names."""
    body = json.dumps(asked).encode()
    answer = json.loads(await fleet.ask(str(asked), "recommend", pin or fleet.pin, body, "id"))
    return [item["item_id"] for item in answer["items"]], answer["catalogue_version"]


def test_what_one_user_or_one_history_asks_has_one_key():
    def key(request_id="a", **message):
        return key_of(RecommendRequest(**message), request_id)

    assert key(user="ann", num=3) == key("b", user="ann", exclude=["i1"])
    assert key(history=["i1", "i2"]) == key("b", history=["i1", "i2"], num=4)
    different = [
        key(user="ann"), key(user="bob"), key(history=["ann"]), key(history=["ab"]),
        key(history=["a", "b"]), key(history=["b", "a"]), key(), key("b"),
    ]  # fmt: skip
    assert len(set(different)) == len(different)


def test_a_request_whose_replica_ends_is_asked_once_more_elsewhere(played):
    async def story():
        fleet = await Fleet.joined(played)
        first = sorted(played.living)[len(str(ASKED[0])) % 2]
        played.before[first, "recommend"] = lambda: played.end(first)
        found = await items(fleet, ASKED[0])
        assert [name for name, method in played.calls if method == "recommend"] == [
            first,
            next(iter(played.living)),
        ]
        assert (fleet.lost, fleet.retried) == (1, 1)
        assert found == await items(fleet, ASKED[0])
        played.before[next(iter(played.living)), "recommend"] = played.living.clear
        with pytest.raises(RefusedError, match="ended before they answered") as error:
            await items(fleet, ASKED[0])
        assert error.value.reason == "replica_lost"
        assert (fleet.lost, fleet.retried) == (3, 2)

    asyncio.run(story())


def test_a_version_serves_when_all_replicas_have_it_and_is_the_one_that_a_server_alone_makes(
    played, world, engine, tmp_path
):
    change = Change(withdraw=["i3", "i4", "i5"])

    async def story():
        fleet = await Fleet.joined(played)
        old = fleet.pin
        before = [await items(fleet, asked) for asked in ASKED]
        seen = []
        # The second replica prepares when the first has done so: nothing else is served yet.
        played.before["r2", "prepare"] = lambda: seen.append(
            (fleet.pin, release_of(played.versions("r1")).number)
        )
        await fleet.change(change)
        assert seen == [(old, 1)]
        after = [await items(fleet, asked) for asked in ASKED]
        assert {version for _, version in after} == {"2.0"}
        assert before != after
        # What was asked for before the swap is answered with what was served then.
        assert [await items(fleet, asked, old) for asked in ASKED] == before
        await fleet.rollback()
        assert [await items(fleet, asked) for asked in ASKED] == before
        assert fleet.pin.release.before == ()
        with pytest.raises(ValueError, match="no version of the catalogue before"):
            await fleet.rollback()
        return after

    after = asyncio.run(story())
    alone = Versions(tmp_path / "alone", world, world.served(), world.listing)
    alone.change(change)
    service = Service(engine, alone, Metrics(TILE), {}.get)

    async def ask(asked):
        message = msgspec.convert(asked, RecommendRequest)
        answer = await service.answer(message, "id", (alone.served, alone.stock))
        return [item.item_id for item in answer.items], answer.catalogue_version

    assert [asyncio.run(ask(asked)) for asked in ASKED] == after


@pytest.mark.parametrize("failing", [("r2", "propose"), ("r1", "prepare"), ("r2", "commit")])
def test_a_roll_that_a_replica_cannot_prepare_changes_nothing(played, failing):
    async def story():
        fleet = await Fleet.joined(played)
        before, pin = await items(fleet, ASKED[0]), fleet.pin
        played.before[failing] = lambda: Failure.of(OSError(28, "No space left on device"))
        change = Change(withdraw=["i3"])
        with pytest.raises(OSError, match="No space left on device"):
            await fleet.change(change)
        assert fleet.pin is pin
        assert await items(fleet, ASKED[0]) == before
        assert release_of(played.versions(played.start())).number == 1
        with pytest.raises(ValueError, match="no item 'nobody'"):
            await fleet.change(Change(withdraw=["nobody"]))
        await fleet.change(change)
        assert {release_of(versions) for _, versions in played.living.values()} == {
            fleet.pin.release
        }

    asyncio.run(story())


def test_a_replica_that_ends_between_prepare_and_swap_holds_nobody_up(played):
    async def story():
        fleet = await Fleet.joined(played)
        late = []

        def end_and_start():
            played.end("r2")
            late.append(played.start())  # It reads the version that still serves.

        # Whoever is asked to write down what serves does so after the second one has ended.
        for name in ("r1", "r2"):
            played.before[name, "commit"] = end_and_start
        await fleet.change(Change(withdraw=["i3", "i4", "i5"]))
        played.before.clear()
        assert fleet.pin.release.number == 2
        assert sorted(played.living) == ["r1", *late]
        assert release_of(played.versions(late[0])) == fleet.pin.release
        answers = [await items(fleet, asked) for asked in ASKED]
        assert {version for _, version in answers} == {"2.0"}
        # One that begins after it, alone, begins with it, and knows what a roll back leads to.
        played.living.clear()
        newest = played.versions(played.start())
        assert release_of(newest) == fleet.pin.release
        assert [await items(fleet, asked) for asked in ASKED] == answers
        await fleet.rollback()
        assert release_of(newest).number == 1

    asyncio.run(story())


def test_a_replica_that_missed_the_swap_answers_with_what_a_request_names(played):
    async def story():
        fleet = await Fleet.joined(played)
        lost = ReplicaLostError("played")
        for method in ("prepare", "take"):
            played.before["r2", method] = lambda: raised(lost)
        await fleet.change(Change(withdraw=["i3", "i4", "i5"]))
        assert release_of(played.versions("r2")).number == 1
        answers = {}
        for name in ("r1", "r2"):
            body = json.dumps(ASKED[0]).encode()
            answers[name] = await played._call(name, "recommend", fleet.pin, body, "id")
        assert answers["r1"] == answers["r2"]
        assert b'"catalogue_version":"2.0"' in answers["r2"]

    asyncio.run(story())


def raised(error):
    raise error


def test_stock_reaches_all_replicas_and_those_that_missed_a_change(played):
    async def story():
        fleet = await Fleet.joined(played)
        wanted, _ = await items(fleet, ASKED[0])
        played.before["r2", "apply_stock"] = lambda: raised(ReplicaLostError("played"))
        await fleet.change_stock(wanted[:2], [])
        third = played.start()
        assert fleet.pin.stock == 1
        for name in ("r1", "r2", third):
            body = json.dumps(ASKED[0]).encode()
            answer = json.loads(await played._call(name, "recommend", fleet.pin, body, "id"))
            assert answer["catalogue_version"] == "1.1"
            assert not {item["item_id"] for item in answer["items"]} & set(wanted[:2])
        with pytest.raises(ValueError, match=r"out\[0\]: the catalogue has no item 'nobody'"):
            await fleet.change_stock(["nobody"], [])
        await fleet.change(Change(withdraw=["i50"]))
        await fleet.change_stock([wanted[2]], [wanted[0]])
        found, version = await items(fleet, ASKED[0])
        assert version == "2.3"
        assert wanted[0] in found
        assert not set(found) & {wanted[1], wanted[2]}

    asyncio.run(story())


def test_a_model_is_rolled_under_one_name_and_one_that_was_trained_anew_is_told(played):
    async def story():
        fleet = await Fleet.joined(played)
        with pytest.raises(ValueError, match="run: 'nobody' is not there"):
            await fleet.change_model("nobody")
        await fleet.change_model("other")
        assert fleet.pin.release.key == (1, "world@2+1")
        assert release_of(played.versions(played.start())) == fleet.pin.release
        await fleet.change(Change(withdraw=["i3"]))
        assert fleet.pin.release.key == (2, "world@2+1")
        # Whose weights are others does not begin to answer, nor has its version a chance.
        with pytest.raises(ValueError, match="has other weights or items here"):
            played.start(World(seed=1))
        different = types.SimpleNamespace(release=fleet.pin.release, digest="0" * 32)
        played.before["r2", "prepare"] = lambda: different
        with pytest.raises(ValueError, match="different things of one version"):
            await fleet.change(Change(withdraw=["i4"]))
        assert fleet.pin.release.key == (2, "world@2+1")

    asyncio.run(story())


def test_over_http_a_front_answers_as_a_server_alone(played, world, engine, tmp_path):
    alone = Versions(tmp_path / "alone", world, world.served(), world.listing)
    engine.swap(alone.served, alone.stock)
    service = Service(engine, alone, Metrics(TILE), {"ann": ["i1", "i2"]}.get)
    named = {"x-request-id": "one"}
    posts = [
        *(("/v1/recommend", asked) for asked in ASKED),
        ("/v1/recommend", {"user": "ann", "explain": False}),
        ("/v1/recommend", {"user": "nobody"}),
        ("/v1/recommend", {"history": ["i1", "gone"]}),
        ("/v1/recommend", {"num": 0}),
        ("/v1/recommend", {"allow": [{"column": "size", "op": "in", "value": ["big"]}]}),
        ("/v1/recommend:batch", {"requests": [*ASKED, {"history": ["gone"]}]}),
    ]
    gets = [
        "/v1/items?q=lamp", "/v1/items?q=lamp&num=0", "/v1/items/i1", "/v1/items/gone",
        "/v1/similar/i1?by=sid", "/openapi.json", "/healthz", "/readyz", "/nothing",
    ]  # fmt: skip

    async def heard(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=named
        ) as client:
            answers = [await client.post(path, json=body) for path, body in posts]
            answers += [await client.get(path) for path in gets]
        return [(answer.status_code, answer.text) for answer in answers]

    async def story():
        front = Front(await Fleet.joined(played), deadline_s=60.0)
        assert await heard(clients(front)) == await heard(application(service))

        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(clients(front)), base_url="http://localhost"
        ) as client:
            status = (await client.get("/v1/status")).json()
            assert (status["replicas"], status["catalogue_version"]) == (2, "1.0")
            text = (await client.get("/metrics")).text
            assert 'minirec_catalogue{replica="r1"} 1.0' in text
            assert 'minirec_catalogue{replica="r2"} 1.0' in text
            assert text.count("# TYPE minirec_request_seconds histogram") == 1
            assert "minirec_front_lost_total 0.0" in text

            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(admins(front, "secret")), base_url="http://localhost"
            ) as admin:
                admin.headers["authorization"] = "Bearer secret"
                changed = await admin.post("/admin/catalogue", json={"withdraw": ["i3"]})
                refused = await admin.post("/admin/catalogue", json={"sids": "none.json"})
                assert changed.json() == {
                    "model_version": "world@1", "catalogue_version": "2.0", "num_listed": 59,
                }  # fmt: skip
                assert (refused.status_code, refused.json()["error"]["reason"]) == (
                    422,
                    "unprocessable",
                )

            batch = (await client.post("/v1/recommend:batch", json={"requests": ASKED})).json()
            versions = {one["answer"]["catalogue_version"] for one in batch["answers"]}
            assert versions == {"2.0"}
            late = await client.post("/v1/recommend", json={"deadline_ms": 1e-6})
            assert (late.status_code, late.json()["error"]["reason"]) == (504, "late")

            kept = dict(played.living)
            played.living.clear()
            lost = await client.post("/v1/recommend", json=ASKED[0])
            assert (lost.status_code, lost.json()["error"]["reason"]) == (503, "replica_lost")
            assert lost.headers["retry-after"] == "1"
            played.living.update(kept)

            assert front.drain(60.0)
            drained = await client.post("/v1/recommend", json=ASKED[0])
            assert (drained.status_code, drained.json()["error"]["reason"]) == (503, "draining")
            assert (await client.get("/readyz")).status_code == 503

    asyncio.run(story())
    front_routes = {route.path for route in admins(types.SimpleNamespace(), None).routes}
    assert front_routes == {route.path for route in admin_application(service, None).routes}


def test_a_pin_that_nobody_can_make_any_more_is_a_failure_by_name(played):
    async def story():
        fleet = await Fleet.joined(played)
        unknown = dataclasses.replace(fleet.pin.release, number=7)
        result = await played.one("", "recommend", Pin(unknown, 0), b"{}", "id")
        assert isinstance(result, Failure)
        assert "catalogue-000007.json" in result.message

    asyncio.run(story())
