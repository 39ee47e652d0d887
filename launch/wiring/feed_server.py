"""What a process of a feed serves: all of it, or one part that the others ask over gRPC."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from launch.wiring import feed
from launch.wiring.catalogue import load_prepared
from launch.wiring.feed_pipeline import pipeline_of
from launch.wiring.feed_shop import (
    action_of,
    records_of,
    shop_of,
    some_users,
    store_settings,
    weights_of,
)
from launch.wiring.program import Job, UsageError
from minirec.files.schema import require_whole
from minirec.recommend.feed.live import ShopEvents
from minirec.recommend.feed.model_judge import ModelJudge
from minirec.recommend.feed.side_effects import RequestCache, ServedHistory, ServedTopic
from minirec.serving.feed.clients import RemoteEvents, RemoteRanker, RemoteTowers, Replicas
from minirec.serving.feed.messages import MOST_SHOWN
from minirec.serving.feed.metrics import FeedMetrics
from minirec.serving.feed.service import FeedServices
from minirec.serving.feed.workers import Workers
from minirec.training import best_step
from pipelines.events.embedded import EmbeddedEvents
from pipelines.events.streamed import StreamedEvents
from pipelines.events.topic import KafkaTopic, SqliteTopic

ROLES = ("all", "feed", "ranker", "retrieval", "store")

FOLDER = "feed"
"""Where a workdir keeps the events of its feed."""

_HOUR_MS = 3_600_000


@dataclasses.dataclass(frozen=True)
class Asked:
    """How a process shall serve.

    Attributes:
        role: one of `ROLES`.
        ranker_at: addresses of rankers; none: in this process.
        retrieval_at: the same of towers.
        store_at: the same of event stores.
        kafka: addresses of Kafka's brokers; "": a log in SQLite.
        group: the consumer group of the store.
        workers: threads that answer.
        max_queue: requests that may wait.
        deadline_s: seconds of a request that does not say.
    """

    role: str = "all"
    ranker_at: Sequence[str] = ()
    retrieval_at: Sequence[str] = ()
    store_at: Sequence[str] = ()
    kafka: str = ""
    group: str = "minirec"
    workers: int = 4
    max_queue: int = 256
    deadline_s: float = 2.0

    def __post_init__(self):
        if self.role not in ROLES:
            raise UsageError(f"--role={self.role}: must be one of {', '.join(ROLES)}")
        places = {name: getattr(self, f"{name}_at") for name in ("ranker", "retrieval", "store")}
        for name, addresses in places.items():
            if self.role == "feed" and not addresses:
                raise UsageError(f"--role=feed asks others: --{name}_at=HOST:PORT,… is missing")
            if addresses and self.role not in ("feed", "all"):
                raise UsageError(f"--{name}_at: --role={self.role} asks nobody")
        if len(self.store_at) > 1:
            raise UsageError(
                f"--store_at={','.join(self.store_at)}: one store alone; what one of several took "
                "the others would not know"
            )
        if self.kafka and (self.store_at or self.role in ("ranker", "retrieval")):
            raise UsageError("--kafka: who has no event store of its own reads no topics")


def check(job: Job) -> None:
    """Looks at `config.feed`, before any work starts.

    Raises:
        ValueError: a field is impossible, or the records are not prepared.
    """
    feed_, prepared = job.config.feed, load_prepared(job)
    for name in ("num_shown", "most_shown", "store.snapshot_every"):
        value = feed_.store.snapshot_every if "." in name else feed_[name]
        require_whole(f"config.feed.{name}", value)
    if not feed_.num_shown <= feed_.most_shown <= MOST_SHOWN:
        raise UsageError(
            f"config.feed.most_shown={feed_.most_shown}: must lie in [num_shown={feed_.num_shown}, "
            f"{MOST_SHOWN}]"
        )
    for name, is_zero_right in (
        ("budget_ms", False),
        ("ranker_budget_ms", False),
        ("popular_half_life_hours", False),
        ("new_days", True),
        ("repurchase_days", True),
        ("out_of_network", True),
    ):
        value = feed_[name]
        if not (value >= 0 if is_zero_right else value > 0) or math.isinf(value):
            least = "of at least 0" if is_zero_right else "above 0"
            raise UsageError(f"config.feed.{name}={value}: must be a finite number {least}")
    shop_of(job.config, prepared)
    weights_of(job.config, prepared)
    store_settings(job.config, prepared)
    for name in ("view", "purchase"):
        action_of(job.config, prepared, name)


def services_of(job: Job, asked: Asked) -> FeedServices:
    """Returns what a process serves, warm.

    Raises:
        ValueError: a step before this one has not run, or a field of `config.feed` is impossible.
        OSError: the event store's files cannot be opened.
    """
    config = job.config
    check(job)
    prepared = load_prepared(job)
    shop, actions = shop_of(config, prepared), tuple(prepared.event_weights)
    weights = weights_of(config, prepared)
    closing: list[Callable[[], None]] = []
    parts: dict[str, Any] = {"version": job.run.name}

    def replicas(name: str, addresses: Sequence[str], seconds: float) -> Replicas:
        made = Replicas(name, addresses, seconds)
        closing.append(made.close)
        return made

    budget_s = config.feed.budget_ms / 1e3
    metrics = FeedMetrics()
    here = {
        "ranker": asked.role == "ranker" or (asked.role == "all" and not asked.ranker_at),
        "towers": asked.role == "retrieval" or (asked.role == "all" and not asked.retrieval_at),
        "events": asked.role == "store" or (asked.role == "all" and not asked.store_at),
    }
    if here["ranker"] or here["towers"]:
        run = feed.load(job)
        judge = ModelJudge(
            run.model,
            run.catalogue.identities,
            actions=actions,
            max_items=config.loader.max_items,
            most_found=max(config.feed.sources.two_tower, 1),
        )
        judge.warm()
        metrics.gauge(
            "minirec_feed_compilations", "Programs compiled so far.", lambda: judge.num_traces
        )
        parts["version"] = f"{job.run.name}@{best_step(job.run)}"
        parts |= {name: judge for name in ("ranker", "towers") if here[name]}
    if here["events"]:
        parts["events"] = _events(job, asked, store_settings(config, prepared))
        closing.append(parts["events"].close)
    if asked.ranker_at:
        # Two tries have to fit into what the pipeline gives the ranker.
        half = config.feed.ranker_budget_ms / 2e3
        at = replicas("RankingService", asked.ranker_at, half)
        parts["ranker"] = RemoteRanker(at, shop, actions)
    if asked.retrieval_at:
        at = replicas("RetrievalService", asked.retrieval_at, budget_s / 2)
        parts["towers"] = RemoteTowers(at, shop, actions)
    if asked.store_at:
        parts["events"] = RemoteEvents(replicas("EventsService", asked.store_at, budget_s / 2))
    if asked.role in ("all", "feed"):
        live = ShopEvents(parts["events"], shop, records_of(prepared))
        served, cache = ServedHistory(), RequestCache()
        folder = job.workdir / FOLDER
        topic = (
            KafkaTopic(asked.kafka, "served")
            if asked.kafka
            else SqliteTopic(folder / "served.sqlite")
        )
        effects = [served, cache, ServedTopic(topic, shop.raw_item_ids)]
        pipeline = pipeline_of(
            config, prepared, shop, live, parts["ranker"], parts["towers"], weights, served, effects
        )
        closing[:0] = [pipeline.close, topic.close]
        parts |= {"live": live, "cache": cache, "pipeline": pipeline}
    workers = Workers(asked.workers, max_queue=asked.max_queue, deadline_s=asked.deadline_s)
    metrics.gauge("minirec_feed_queue", "Requests that wait.", lambda: workers.num_waiting)
    return FeedServices(
        role=asked.role,
        shop=shop,
        actions=actions,
        weights=weights,
        num_shown=config.feed.num_shown,
        most_shown=config.feed.most_shown,
        users=some_users(prepared),
        engine=workers,
        metrics=metrics,
        on_close=closing,
        **parts,
    )


def _events(job: Job, asked: Asked, settings: Any) -> EmbeddedEvents | StreamedEvents:
    half_life = job.config.feed.popular_half_life_hours * _HOUR_MS
    folder = job.workdir / FOLDER
    if asked.kafka:
        return StreamedEvents(asked.kafka, asked.group, folder / "snapshots", settings, half_life)
    every = job.config.feed.store.snapshot_every
    return EmbeddedEvents(folder / "events", settings, half_life, snapshot_every=every)
