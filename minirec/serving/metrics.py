"""What Prometheus reads of a server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST

from minirec.serving.engine import Engine
from minirec.serving.request import Answer

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST.replace("application/openmetrics-text", "text/plain")


class Metrics:
    """Hears of what happens in an engine, and counts it; see `minirec.serving.engine.Observer`."""

    def __init__(self, tile: int):
        """Begins at nought.

        Args:
            tile: queries of a tile, at most.
        """
        self.registry = CollectorRegistry()
        kept = {"registry": self.registry}
        self._seconds = Histogram(
            "minirec_request_seconds",
            "Seconds of answered requests, by phase: queued, searched, all.",
            ["phase"],
            buckets=_SECONDS,
            **kept,
        )
        self._phases = {name: self._seconds.labels(name) for name in ("queued", "searched", "all")}
        self._tiles = Histogram(
            "minirec_tile_queries",
            "Queries of each tile.",
            buckets=sorted({1, 2, 4, 8, 16, 32, 64, tile}),
            **kept,
        )
        self._answered = Counter(
            "minirec_answered_total", "Requests answered, by what ranked.", ["rank_by"], **kept
        )
        self._refused = Counter(
            "minirec_refused_total", "Requests without an answer, by reason.", ["reason"], **kept
        )
        self._reasons: dict[str, Counter] = {}
        self._invalid = Counter(
            "minirec_invalid_items_total",
            "Items answered that the catalogue's version does not hold: must stay 0.",
            **kept,
        )

    def tile(self, size: int, seconds: float) -> None:
        """Counts a tile."""
        self._tiles.observe(size)

    def answered(self, answer: Answer, seconds: float) -> None:
        """Counts an answer, and looks whether the version holds its items."""
        self._phases["queued"].observe(answer.queued_s)
        self._phases["searched"].observe(answer.searched_s)
        self._phases["all"].observe(seconds)
        self._answered.labels(answer.rank_by).inc()
        listed = answer.served.catalogue.listed[answer.found.item]
        if not listed.all():
            self._invalid.inc(len(listed) - int(listed.sum()))

    def refused(self, reason: str) -> None:
        """Counts a refusal."""
        if reason not in self._reasons:
            self._reasons[reason] = self._refused.labels(reason)
        self._reasons[reason].inc()

    def watch(self, engine: Engine) -> None:
        """Reads an engine's numbers whenever Prometheus asks."""
        recommender = engine.recommender
        for name, about, value in (
            ("minirec_queue", "Requests that wait.", lambda: engine.num_waiting),
            ("minirec_tiles_in_flight", "Tiles under way.", lambda: engine.num_flying),
            (
                "minirec_compilations",
                "Programs compiled so far: stays put once the server is ready.",
                lambda: recommender.programs.num_traces,
            ),
            ("minirec_cache_hits", "Readings found.", lambda: recommender.cache.hits),
            ("minirec_cache_grown", "Readings begun.", lambda: recommender.cache.grown),
            ("minirec_cache_misses", "Readings not found.", lambda: recommender.cache.misses),
            ("minirec_cache_bytes", "Readings kept.", lambda: recommender.cache.num_bytes),
            ("minirec_catalogue", "Its version.", lambda: engine.served.catalogue.number),
            ("minirec_stock_changes", "Changes so far.", lambda: engine.stock.number),
            (
                "minirec_tile_seconds",
                "Moving average of a tile's time.",
                lambda: engine.admission.latency_s,
            ),
        ):
            self._gauge(name, about, value)
        model = Gauge("minirec_model", "1 for what answers.", ["version"], registry=self.registry)
        model.labels(engine.served.model_version).set(1)
        self._model, self._version = model, engine.served.model_version

    def model_changed(self, version: str) -> None:
        """Takes note of another model."""
        self._model.remove(self._version)
        self._model.labels(version).set(1)
        self._version = version

    def text(self) -> bytes:
        """Returns everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        Gauge(name, about, registry=self.registry).set_function(value)
