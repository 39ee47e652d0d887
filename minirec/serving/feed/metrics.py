"""What Prometheus reads of a feed's services."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from minirec.recommend.pipeline import Feed, Step

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class FeedMetrics:
    """Counts requests, refusals, what components do, and what is shown."""

    def __init__(self) -> None:
        """Begins at nought."""
        self.registry = CollectorRegistry()
        kept = {"registry": self.registry}
        self._seconds = Histogram(
            "minirec_feed_request_seconds", "Seconds of answered requests, by what was asked.",
            ["route"], buckets=_SECONDS, **kept,
        )  # fmt: skip
        self._refused = Counter(
            "minirec_feed_refused_total", "Requests without an answer, by reason.", ["reason"],
            **kept,
        )  # fmt: skip
        self._component = Histogram(
            "minirec_feed_component_seconds", "Seconds of a component, by stage and name.",
            ["stage", "component"], buckets=_SECONDS, **kept,
        )  # fmt: skip
        self._failed = Counter(
            "minirec_feed_component_failed_total", "Calls that failed or were late.",
            ["stage", "component", "outcome"], **kept,
        )  # fmt: skip
        self._shown = Counter(
            "minirec_feed_shown_total", "Items shown, by the sources that named them.",
            ["source"], **kept,
        )  # fmt: skip
        self._answers = Counter(
            "minirec_feed_answers_total", "Feeds, by what ranked them.", ["ranked_by"], **kept
        )
        self._events = Counter("minirec_feed_events_total", "Events taken.", **kept)

    def answered(self, route: str, seconds: float) -> None:
        """Counts an answer."""
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Counts a refusal."""
        self._refused.labels(reason).inc()

    def events(self, number: int) -> None:
        """Counts events."""
        self._events.inc(number)

    def fed(self, feed: Feed, ranked_by: str) -> None:
        """Counts a feed."""
        self._answers.labels(ranked_by).inc()
        for step in feed.steps:
            self._step(step)
        bits = feed.shown["sources"].astype(np.int64)
        for bit, name in enumerate(feed.source_names):
            if number := int((bits >> bit & 1).sum()):
                self._shown.labels(name).inc(number)

    def gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Reads a number whenever Prometheus asks."""
        Gauge(name, about, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Returns everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _step(self, step: Step) -> None:
        if step.outcome == "off":
            return
        self._component.labels(step.stage, step.component).observe(step.seconds)
        if step.outcome != "done":
            self._failed.labels(step.stage, step.component, step.outcome).inc()
