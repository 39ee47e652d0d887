"""A generated shop's feed, served by a model that has learnt nothing: it starts in seconds."""

import asyncio
import contextlib
import dataclasses
import http.client
import json
import threading

import pytest
from flax import nnx

from launch.wiring import feed, feed_server, program
from minirec.serving.feed.grpc_service import FeedGrpcServer
from minirec.serving.feed.http import application
from minirec.serving.server import Addresses, Fronts, serve
from pipelines.prepare.prepare import prepare
from tests.ports import free_port


def prepared_job(folder):
    config = program.load_config_module("feed_quickstart").get_config("smoke")
    config.feed.num_shown = 12
    config.feed.ranker_budget_ms = config.feed.budget_ms = 30_000.0  # Machines may be busy.
    job = program.Job(config, folder, folder / "runs" / config.name)
    prepare(config.data.to_dict(), job.prepared)
    return job


@contextlib.contextmanager
def untrained():
    """Loads runs with the weights that training begins with."""

    def load(job):
        catalogue = feed.load_catalogue(job)
        model = feed.make_model(job.config, catalogue.prepared, nnx.Rngs(0))
        return feed.FeedRun(job.config, catalogue, model, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "load", load)
        patch.setattr(feed_server, "best_step", lambda run: 0)
        yield


def with_workdir(job, folder):
    """The same shop with events of its own."""
    folder.mkdir(exist_ok=True)
    if not (folder / "prepared").exists():
        (folder / "prepared").symlink_to(job.prepared)
    return dataclasses.replace(job, workdir=folder, run=folder / "runs" / "x")


class Served:
    """Services in a thread, at ports of their own."""

    def __init__(self, services, port=0, grpc_port=0):
        self.services = services
        self.port, self.grpc_port = port or free_port(), grpc_port or free_port()
        self.address = f"127.0.0.1:{self.grpc_port}"
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        ready = threading.Event()
        fronts = Fronts(application, None, FeedGrpcServer)

        def run():
            addresses = Addresses(http_port=self.port, grpc_port=self.grpc_port)
            with contextlib.suppress(OSError):
                self._loop.run_until_complete(
                    serve(
                        lambda: services, addresses, fronts=fronts, drain_s=5.0,
                        on_ready=lambda _: ready.set(), stop=self._stop,
                    )
                )  # fmt: skip

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert ready.wait(60)

    def ask(self, route, body=None, **headers):
        """Returns (status, JSON or text)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        method = "GET" if body is None else "POST"
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        connection.request(method, route, text, headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text[:1] in b"{[" else text.decode()

    def feed(self, user="u000001", **more):
        status, answer = self.ask("/v1/feed", {"user": user, "deadline_ms": 60_000, **more})
        assert status == 200, answer
        return answer

    def close(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._loop.close()
        self.services.close()


def items(answer):
    return [item["item_id"] for item in answer["items"]]
