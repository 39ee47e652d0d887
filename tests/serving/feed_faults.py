"""Attacks a feed in four processes: `python -m tests.serving.feed_faults --workdir=W`.

A script, not a test: it takes some minutes. `--workdir` holds a run of `feed_quickstart`, as
`launch.feed` leaves it. Store, ranker and towers are killed (`kill -9`) and started again while
users ask and events come; then the store follows Kafka, whose brokers are gone for 30 seconds. It
prints a line a fault, with counts, and ends with 1 if an event was lost or counted twice, a request
found nobody, or the feed did not say that it was degraded, or did not come back.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from tests.ports import free_port
from tests.serving.faults import Report
from tests.serving.faults import Server as Recommender

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "feed_quickstart"
RATE = 20  # Feeds a second, and as many events.
AWAY_S = 30.0
# On a busy machine what is late would look as what is dead.
PATIENT = ("--config.feed.budget_ms=4000", "--config.feed.ranker_budget_ms=4000")


class Part(Recommender):
    """A part of a feed in a process of its own; asked as the recommender's server is."""

    def __init__(self, role, workdir, *flags, port=0, grpc_port=0):
        self.role, self.workdir, self.flags = role, workdir, flags
        self.port, self.grpc_port = port or free_port(), grpc_port or free_port()
        self.at = f"127.0.0.1:{self.grpc_port}"
        self.log = (pathlib.Path(workdir) / f"{role}.log").open("a")
        begin = time.monotonic()
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "launch.feed", f"--config={CONFIG}", f"--workdir={workdir}",
                f"--role={role}", f"--http_port={self.port}", f"--grpc_port={self.grpc_port}",
                "--deadline_ms=10000", "--nolog_requests", *PATIENT, *flags,
            ],
            stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=ROOT, env=dict(os.environ),
        )  # fmt: skip
        lines = iter(self.process.stdout.readline, "")
        assert any(line.startswith("{") for line in lines), f"see {workdir}/{role}.log"
        self.seconds = time.monotonic() - begin

    def again(self):
        """Starts the same part at the same address."""
        return Part(self.role, self.workdir, *self.flags, port=self.port, grpc_port=self.grpc_port)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Traffic:
    """Users who ask for feeds and send events, until it is stopped.

    An event that is not taken is sent again, as the same event, until it is.
    """

    def __init__(self, feed, name):
        self.feed, self.name = feed, name
        self.answers, self.taken, self.refused = [], [], 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=one) for one in (self._ask, self._send)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def end(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        lot = random.Random(1)
        while not self._stop.wait(1 / RATE):
            user = f"u{lot.randrange(200):06}"
            begin = time.monotonic()
            status, answer = self.feed.ask("/v1/feed", {"user": user, "num": 10})
            told = answer if isinstance(answer, dict) else {}
            self.answers.append(
                (begin, status, told.get("ranked_by"), tuple(told.get("degraded", ())),
                 len(told.get("items", ())))
            )  # fmt: skip

    def _send(self):
        lot, number = random.Random(2), 0
        while not self._stop.is_set():
            event = {
                "event_id": f"{self.name}/{number}", "user": f"{self.name}{number % 10}",
                "action": "view", "item": f"i{lot.randrange(600):05}",
                "time_ms": round(time.time() * 1e3),
            }  # fmt: skip
            while self.feed.ask("/v1/events", {"events": [event]})[0] != 200:
                self.refused += 1
                time.sleep(0.1)
            self.taken.append(event)
            number += 1
            time.sleep(1 / RATE)


def held(feed, traffic):
    """Returns (events lost, events too many) of what was taken, by users' histories."""
    lost = more = 0
    for place in range(10):
        user = f"{traffic.name}{place}"
        sent = sorted(
            (one["time_ms"], one["item"]) for one in traffic.taken if one["user"] == user
        )[-100:]
        until = time.monotonic() + 30.0
        while True:
            status, answer = feed.ask(f"/v1/events?user={user}&num=100")
            there = []
            if status == 200:
                there = sorted((one["time_ms"], one["item_id"]) for one in answer["events"])
            if there == sent or time.monotonic() > until:
                break
            time.sleep(0.2)
        lost += len(set(sent) - set(there))
        more += len(there) - len(set(there))
    return lost, more


def back_in(feed, seconds=60.0):
    """Returns after how many seconds a feed is whole again; None: not by then."""
    begin = time.monotonic()
    while (spent := time.monotonic() - begin) < seconds:
        status, answer = feed.ask("/v1/feed", {"user": "u000001", "num": 5})
        if status == 200 and not answer["degraded"] and answer["ranked_by"] == "ranker":
            return round(spent, 2)
        time.sleep(0.1)
    return None


def killed(report, parts, feed, name, expected):
    """Kills a part for some seconds and starts it again, under load."""
    traffic = Traffic(feed, f"kill-{name}-")
    time.sleep(3.0)
    away = time.monotonic()
    parts[name].kill()
    time.sleep(5.0)
    started = time.monotonic()
    parts[name] = parts[name].again()
    whole = back_in(feed)
    time.sleep(2.0)
    traffic.end()
    lost, more = held(feed, traffic)
    during = [answer for answer in traffic.answers if away + 0.5 < answer[0] < started]
    failed = sum(status != 200 or not number for _, status, _, _, number in traffic.answers)
    said = sum(bool(set(expected) & set(degraded)) for _, _, _, degraded, _ in during)
    ranked = sum(ranked_by == "retrieval" for _, _, ranked_by, _, _ in during)
    report(
        f"{name} killed for 5 s",
        lost == more == failed == 0 and said == len(during) > 0 and whole is not None,
        feeds=len(traffic.answers), without_an_answer=failed, while_away=len(during),
        said_degraded=said, by_retrieval=ranked, events=len(traffic.taken), lost=lost, twice=more,
        sent_again=traffic.refused, restart_s=round(parts[name].seconds, 1), whole_after_s=whole,
    )  # fmt: skip


def broker(pipe):
    """Carries librdkafka's own brokers, and makes them fail or answer as it is told."""
    import confluent_kafka as kafka

    producer = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "x"})
    (one,) = producer.list_topics(timeout=30).brokers.values()
    pipe.send(f"{one.host}:{one.port}")
    pipe.recv()


def kafka_gone(report, workdir, others):
    """Kafka's brokers stand still for 30 s, as behind a network that is gone, and go on."""
    import signal

    mine, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=broker, args=(theirs,))
    process.start()
    servers = mine.recv()
    store = Part("store", workdir, f"--kafka={servers}", f"--group=faults{os.getpid()}")
    feed = Part("feed", workdir, *others, f"--store_at={store.at}")
    try:
        traffic = Traffic(feed, "kafka-")
        time.sleep(5.0)
        away = time.monotonic()
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(AWAY_S)
        os.kill(process.pid, signal.SIGCONT)
        came = time.monotonic()
        before = len(traffic.taken)
        while len(traffic.taken) < before + 20 and time.monotonic() < came + 60:
            time.sleep(0.1)
        taken_after = round(time.monotonic() - came, 1)
        traffic.end()
        lost, more = held(feed, traffic)
        failed = sum(status != 200 or not number for _, status, _, _, number in traffic.answers)
        during = sum(away < answer[0] < came for answer in traffic.answers)
        report(
            f"Kafka gone for {AWAY_S:.0f} s",
            lost == more == failed == 0 and traffic.refused > 0,
            feeds=len(traffic.answers), without_an_answer=failed, while_away=during,
            events=len(traffic.taken), lost=lost, twice=more, refused_and_sent_again=
            traffic.refused, twenty_taken_after_s=taken_after,
        )  # fmt: skip
    finally:
        feed.kill()
        store.kill()
        process.kill()


def terminated(report, feed):
    """SIGTERM: whoever was taken on gets an answer, and the program ends with 0."""
    results = []

    def ask():
        results.append(feed.ask("/v1/feed", {"user": "u000001"})[0])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    feed.process.terminate()
    for thread in threads:
        thread.join()
    code = feed.process.wait(60)
    report("SIGTERM", code == 0 and set(results) <= {200, 503, 0}, code=code, answers=results)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", required=True)
    source = pathlib.Path(parser.parse_args().workdir).resolve()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for name in ("prepared", "runs", ".compiled"):
            if (source / name).is_dir():
                shutil.copytree(source / name, work / name)
        parts = {role: Part(role, work) for role in ("ranker", "retrieval", "store")}
        others = [f"--{role}_at={parts[role].at}" for role in ("ranker", "retrieval")]
        feed = Part("feed", work, *others, f"--store_at={parts['store'].at}")
        try:
            killed(report, parts, feed, "ranker", ["Ranker"])
            killed(report, parts, feed, "retrieval", ["TwoTower"])
            killed(report, parts, feed, "store", ["InNetwork", "NewItems"])
            terminated(report, feed)
            kafka_gone(report, work, others)
        finally:
            for part in (feed, *parts.values()):
                part.kill()
    print(json.dumps({"wrong": report.wrong}))
    return report.wrong > 0


if __name__ == "__main__":
    sys.exit(main())
