"""`launch.serve` as a process: what it says when it is ready, and how it ends."""

import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import grpc
import pytest

from launch import recommend
from launch.wiring import append, serving
from launch.wiring.experiment import experiment_of
from minirec.serving.grpc_service import PROTO
from pipelines.prepared import Prepared


def free_ports(number):
    held = [socket.socket() for _ in range(number)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def command_of(job, *flags):
    return [
        sys.executable,
        "-m",
        "launch.serve",
        "--config=quickstart:smoke",
        f"--config.loader.max_items={job.config.loader.max_items}",
        f"--workdir={job.workdir}",
        *flags,
    ]


class Serving:
    """A server in a process of its own, once it has said that it is ready."""

    def __init__(self, job, *flags):
        self.port, self.admin_port, self.grpc_port = free_ports(3)
        ports = (f"--http_port={self.port}", f"--admin_port={self.admin_port}")
        command = command_of(job, *ports, f"--grpc_port={self.grpc_port}", *flags)
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.ready = json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def ask(self, route, body=None, port=None):
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{port or self.port}{route}"
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def job(smoke, tmp_path_factory):
    """The smoke run in a folder of its own: a server leaves versions in it."""
    workdir = tmp_path_factory.mktemp("serve") / "W"
    shutil.copytree(smoke[0].workdir, workdir)
    job = dataclasses.replace(smoke[0], workdir=workdir, run=workdir / "runs" / smoke[0].run.name)
    prepared = Prepared.load(job.prepared)
    append.append_items(job, prepared, new_items(workdir, prepared), None)
    return job


def new_items(folder, prepared, **changes):
    """A file of two items in a colour of their own, one of which has a price."""
    lines = [
        {"raw_item_id": name, "text": prepared.items["text"][place], "attributes": "brand=Own"}
        | {"colour": "Violet", "price": price}
        | changes
        for name, place, price in (("new", 3, 7.5), ("other", 9, None))
    ]
    path = folder / "new.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rule(column, op, value):
    return {"column": column, "op": op, "value": value}


VIOLET, CHEAP = rule("colour", "in", ["Violet"]), rule("price", "<", 8)


def allowed_items(server, *rules):
    """The items that rules let through, best first, which HTTP and gRPC agree on."""
    request = {"history": ["i00001"], "num": 20, "rank_by": "model", "allow": list(rules)}
    items = [item["item_id"] for item in server.ask("/v1/recommend", request)["items"]]
    messages, services = grpc.protos_and_services(PROTO)
    given = [
        messages.AllowRule(
            column=rule["column"],
            op=rule["op"],
            **{"number" if rule["op"] == "<" else "texts": rule["value"]},
        )
        for rule in rules
    ]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        message = messages.RecommendRequest(
            history=["i00001"], num=20, rank_by="model", allow=given
        )
        answer = services.RecommenderStub(channel).Recommend(message, timeout=60)
    assert [item.item_id for item in answer.items] == items
    return items


def test_a_server_answers_as_launch_recommend_does_and_drains_at_sigterm(job):
    prepared = experiment_of(job.config).load(job).catalogue.prepared
    raw, histories = prepared.raw_item_ids, prepared.histories("test", range(8))
    histories = [[raw[item] for item in history] for history in histories]
    expected = list(recommend.recommend(job, histories, top=5))
    with Serving(job, "--deadline_ms=60000") as server:
        assert server.ready["ready"]
        for user, history in enumerate(histories):
            answer = server.ask("/v1/recommend", {"history": history, "num": 5})
            items = [(item["item_id"], item["score"]) for item in answer["items"]]
            assert items == [
                (row["item_id"], row["score"]) for row in expected if row["user"] == user
            ]
        price = dict(zip(raw, prepared.carried["price"].to_list(), strict=True))
        found = allowed_items(server, rule("price", "<", 30))
        assert found
        assert all(price[item] < 30 for item in found if item in price)
        assert set(allowed_items(server, VIOLET)) == {"new", "other"}
        assert allowed_items(server, VIOLET, CHEAP) == ["new"]
        assert set(allowed_items(server, rule("brand", "in", ["Own"]))) == {"new", "other"}
        about = server.ask("/v1/items/new")["attributes"]
        assert about == {"brand": ["Own"], "colour": ["Violet"], "price": ["7.5"]}
        first = answer["items"][0]["item_id"]
        server.ask("/admin/catalogue", {"withdraw": [first]}, server.admin_port)
        user = prepared.users["raw_user_id"][0]
        assert server.ask("/v1/recommend", {"user": user})["items"]
        under_load(server, histories)
        _, log = server.process.communicate(timeout=60)
        assert server.process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert {"request_id", "route", "status", "ms"} <= set(lines[0])
    assert raw[0] not in log
    with Serving(job, "--deadline_ms=60000") as server:  # The version before the end is served.
        answer = server.ask("/v1/recommend", {"history": histories[-1], "num": 20})
        assert answer["catalogue_version"].startswith("2.")
        assert first not in [item["item_id"] for item in answer["items"]]
        assert set(allowed_items(server, VIOLET)) == {"new", "other"} - {first}
        assert allowed_items(server, VIOLET, CHEAP) == ["new"][: first != "new"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"price": "cheap"},
            r"column 'price' of item 'n1' is 'cheap'; the records hold finite numbers",
        ),
        ({"colour": ["red"]}, r"new.jsonl, line 1: 'colour' is \['red'\]; it must be a text"),
    ],
)
def test_a_new_item_whose_columns_do_not_fit_is_named(job, tmp_path, changes, message):
    prepared = Prepared.load(job.prepared)
    path = new_items(tmp_path, prepared, **changes)
    lines = path.read_text().replace('"new"', '"n1"').replace('"other"', '"n2"')
    path.write_text(lines)
    with pytest.raises(ValueError, match=message):
        append.append_items(job, prepared, path, None)
    path.write_text(lines.replace('"price"', '"cost"'))
    with pytest.raises(ValueError, match=r"new.jsonl: there is no column 'price'"):
        append.append_items(job, prepared, path, None)


def under_load(server, histories):
    """Ends a server while clients ask: each gets an answer, or is told that it goes down."""
    statuses, begun = [], threading.Event()

    def client(history):
        while True:
            try:
                server.ask("/v1/recommend", {"history": history})
                statuses.append(200)
                begun.set()
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
                return
            except (urllib.error.URLError, ConnectionError):
                return  # It has gone: nobody took this request on.

    threads = [threading.Thread(target=client, args=(history,)) for history in histories]
    for thread in threads:
        thread.start()
    begun.wait(60)
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert set(statuses) <= {200, 503}


def test_a_catalogue_that_changes_after_another_model_keeps_that_model(job, tmp_path):
    workdir = tmp_path / "W"
    shutil.copytree(job.workdir, workdir)
    job = dataclasses.replace(job, workdir=workdir, run=workdir / "runs" / job.run.name)
    shutil.copytree(job.run, job.run.with_name("other"))
    server = serving.load(job)
    builder = serving.RunBuilder(job, server)
    served = builder.with_model(server.served, "other")
    assert served.model_version.startswith("other@")
    again = builder.with_model(served, None)
    assert again.model_version != served.model_version  # Its readings are not the other's.
    run = builder._runs[again.model_version]
    run.model.decoder.embedding[...] = run.model.decoder.embedding[...] * 2
    listing = dataclasses.replace(server.listing, listed=server.listing.listed.copy())
    listing.listed[:5] = False
    changed = builder.with_listing(again, 2, listing)
    assert changed.model_version == again.model_version
    embedding = changed.weights.model.decoder.embedding[...]
    assert (embedding == run.model.decoder.embedding[...]).all()
    with pytest.raises(ValueError, match="is not there"):
        builder.with_model(again, "nobody")


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(job):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        command = command_of(job, f"--http_port={port}", "--admin_port=0", "--grpc_port=0")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"--http_port={port}" in done.stderr
    assert "Traceback" not in done.stderr
