"""A feed's whole pipeline beside its ranker alone: time by stage, by how many ask at once."""

from __future__ import annotations

import concurrent.futures
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from launch.wiring import feed
from launch.wiring.feed_pipeline import pipeline_of
from launch.wiring.feed_shop import records_of, shop_of, store_settings, weights_of
from launch.wiring.program import Job, load_config_module
from minirec.recommend.feed.live import ShopEvents
from minirec.recommend.feed.model_judge import ModelJudge
from minirec.recommend.feed.side_effects import ServedHistory
from minirec.recommend.pipeline import FeedQuery
from pipelines.events.embedded import EmbeddedEvents
from pipelines.prepare.prepare import prepare

CONCURRENT = (1, 16, 64)
"""Requests that are under way at one time."""

_SIDE_BY_SIDE = ("query_hydrators", "sources", "hydrators", "post_selection_hydrators")
_HOUR_MS = 3_600_000


def run(
    num_users: int = 1500,
    num_items: int = 2000,
    candidates: int = 500,
    requests: int = 200,
    concurrent: tuple[int, ...] = CONCURRENT,
) -> Iterator[dict[str, Any]]:
    """Yields a row of the ranker alone and one of the pipeline for each number of requests at once.

    The shop is generated, and its model has learnt nothing: how good it is takes no time. The store
    is the embedded one. `of_floor` is the ranker's median time over the pipeline's, for as many
    candidates; `STAGE_p50_ms` is what a stage takes, of components side by side the longest.

    Args:
        num_users: of the shop.
        num_items: of the shop.
        candidates: that the sources name, about.
        requests: of a row.
        concurrent: see `CONCURRENT`.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = _job(Path(folder), num_users, num_items, candidates)
        config = job.config
        prepare(config.data.to_dict(), job.prepared)
        catalogue = feed.load_catalogue(job)
        prepared = catalogue.prepared
        judge = ModelJudge(
            feed.make_model(config, prepared, nnx.Rngs(0)),
            catalogue.identities,
            actions=tuple(prepared.event_weights),
            max_items=config.loader.max_items,
            most_found=max(config.feed.sources.two_tower, 1),
        )
        judge.warm()
        shop = shop_of(config, prepared)
        store = EmbeddedEvents(Path(folder) / "events", store_settings(config, prepared), _HOUR_MS)
        live = ShopEvents(store, shop, records_of(prepared))
        served = ServedHistory()
        weights = weights_of(config, prepared)
        pipeline = pipeline_of(
            config, prepared, shop, live, judge, judge, weights, served, [served]
        )
        users = prepared.users["raw_user_id"].to_list()
        now = float(prepared.columns["time"].max()) + 60.0
        feeds: list[Any] = []

        def whole(number: int) -> None:
            feeds.append(pipeline.run(FeedQuery(users[number % len(users)], now, {"num": 20})))

        whole(0)
        judged = next(step for step in feeds[0].steps if step.component == "Ranker").given
        items = np.arange(judged)

        def alone(number: int) -> None:
            judge.probabilities(live.history(users[number % len(users)], 32), items, now)

        for at_once in concurrent:
            floor, _ = _measured(alone, requests, at_once)
            about = {"benchmark": "feed", "concurrent": at_once, "candidates": int(judged)}
            yield about | {"implementation": "ranker_alone"} | _row(floor)
            feeds.clear()
            spent, seconds = _measured(whole, requests, at_once)
            yield (
                about
                | {"implementation": "minirec"}
                | _row(spent)
                | {
                    "requests_per_s": round(requests / seconds, 1),
                    "of_floor": round(float(np.median(floor) / np.median(spent)), 3),
                    "degraded": sum(one.is_degraded for one in feeds),
                }
                | _stages(feeds)
            )
        pipeline.close()
        store.close()


def _job(folder: Path, num_users: int, num_items: int, candidates: int) -> Job:
    config = load_config_module("feed_quickstart").get_config()
    source = {"num_users": num_users, "num_items": num_items}
    config.data.source.update(source)
    config.feed.sources.two_tower = candidates  # The others name mostly the same.
    config.feed.budget_ms = config.feed.ranker_budget_ms = 60_000.0  # All is measured, late or not.
    return Job(config, folder, folder / "runs" / config.name)


def _measured(
    work: Callable[[int], None], requests: int, at_once: int
) -> tuple[list[float], float]:
    """Returns the seconds of each request, and of all of them together."""
    spent = [0.0] * requests

    def one(number: int) -> None:
        begin = time.perf_counter()
        work(number)
        spent[number] = time.perf_counter() - begin

    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(requests)))
    return spent, time.perf_counter() - begin


def _row(spent: list[float]) -> dict[str, float]:
    return {
        f"p{percent}_ms": round(1e3 * float(np.percentile(spent, percent)), 2)
        for percent in (50, 99)
    }


def _stages(feeds: list[Any]) -> dict[str, float]:
    """Returns median and 99th percentile of each stage's milliseconds."""
    by_stage: dict[str, list[float]] = {}
    for one in feeds:
        of: dict[str, list[float]] = {}
        for step in one.steps:
            of.setdefault(step.stage, []).append(step.seconds)
        for stage, seconds in of.items():
            took = max(seconds) if stage in _SIDE_BY_SIDE else sum(seconds)
            by_stage.setdefault(stage, []).append(took)
    return {
        f"{stage}_p{percent}_ms": round(1e3 * float(np.percentile(spent, percent)), 2)
        for stage, spent in by_stage.items()
        for percent in (50, 99)
    }
