"""A trained feed model as a server asks it: one user's history at a time, any number of candidates.

Programs are compiled once a size: candidates are padded up to one of a few sizes, which changes no
candidate's answer. What a history was read into is kept for the user's next request.
"""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int, Int32

from minirec.files.schema import require_whole
from minirec.models.feed import FeedModel
from minirec.models.ranker import Events, Reading
from minirec.recommend.feed.live import PastEvents
from minirec.recommend.feed.searcher import user_vectors
from minirec.recommend.index import nearest_items

SIZES = (64, 256, 1024)
"""Candidates that are judged at one time; more come in pieces of the largest."""

_LONGEST = 2**31 - 1  # Seconds that an int32 holds.


class ModelJudge:
    """Ranker and towers of a model; safe among threads.

    It is an `ActionRanker` and, of the towers, a `Finder` and a `VectorOf`.

    Attributes:
        actions: names of the event types, in their order.
        vectors_of_all: `[N, E]` the items' vectors.
        num_traces: programs that were compiled so far.
    """

    def __init__(
        self,
        model: FeedModel,
        identities: Int32[np.ndarray, "N F hashes"],
        *,
        actions: Sequence[str],
        max_items: int,
        most_found: int,
        kept_readings: int = 1024,
        sizes: Sequence[int] = SIZES,
    ):
        """Computes every item's vector; compiles nothing else yet.

        Args:
            model: the trained model.
            identities: rows of every item's identities.
            actions: names of the event types.
            max_items: events of a history that are read.
            most_found: items that the towers find, at most.
            kept_readings: histories that are kept read.
            sizes: numbers of candidates that programs are compiled for.

        Raises:
            ValueError: a number is no whole one above 0.
        """
        for name, value in (("max_items", max_items), ("most_found", most_found)):
            require_whole(name, value)
        self.actions = tuple(actions)
        self._max_items, self._most_found = max_items, min(most_found, len(identities))
        self._sizes, self._kept = tuple(sorted(sizes)), kept_readings
        self._identities = jnp.asarray(identities)
        graph, self._state = nnx.split(model)
        self.num_traces = 0
        self._read = jax.jit(self._traced(functools.partial(_read, graph)))
        self._score = jax.jit(self._traced(functools.partial(_score, graph)))
        find = functools.partial(_find, graph, most=self._most_found)
        self._find = jax.jit(self._traced(find))
        vectors = jax.jit(self._traced(functools.partial(_vectors, graph)))
        self._vectors = vectors(self._state, self._identities)
        self.vectors_of_all: Float32[np.ndarray, "N E"] = np.asarray(self._vectors)
        self._readings: collections.OrderedDict[bytes, Reading] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def warm(self) -> None:
        """Compiles every program that a request may need."""
        for size in self._sizes:
            self.probabilities(PastEvents.of(), np.zeros(size, np.int64), 0.0)
        self.find(PastEvents.of([0], [0], [0.0]), 1, 0.0)

    def probabilities(
        self, past: PastEvents, items: Int[np.ndarray, " C"], now: float
    ) -> Float[np.ndarray, "C A"]:
        """Returns the probability of every action for every item; see `ActionRanker`."""
        events, lengths = self._events(past)
        reading = self._reading(events, lengths)
        wait = jnp.asarray([np.clip(now - past.time[-1], 0, _LONGEST)] if len(past.time) else [0])
        wait = wait.astype(jnp.int32)
        found = []
        for start in range(0, len(items), self._sizes[-1]):
            piece = items[start : start + self._sizes[-1]]
            size = next(size for size in self._sizes if size >= len(piece))
            padded = np.zeros((1, size), np.int32)
            padded[0, : len(piece)] = piece
            judged = self._score(self._state, self._identities, reading, padded, wait)
            found.append(np.asarray(judged)[: len(piece)])
        return np.concatenate(found) if found else np.zeros((0, len(self.actions)), np.float32)

    def find(
        self, past: PastEvents, most: int, now: float
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Returns the items whose vectors are nearest to a history's; see `Finder`."""
        del now  # The towers do not ask how long ago it was.
        events, lengths = self._events(past)
        item, score = self._find(self._state, self._identities, self._vectors, events, lengths)
        return np.asarray(item)[0, :most], np.asarray(score)[0, :most]

    def vectors(self, items: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n E"]:
        """Returns the vectors of items; see `VectorOf`."""
        return self.vectors_of_all[items]

    def _events(self, past: PastEvents) -> tuple[Events, Int32[Array, " 1"]]:
        """Returns a history as the model reads it, `[1, max_items]`, and its length."""
        past = past.newest(self._max_items)
        number = len(past.item)
        padded = np.zeros((4, 1, self._max_items), np.int32)
        gap = np.clip(np.diff(past.time), 0, _LONGEST)
        padded[0, 0, :number], padded[1, 0, :number] = past.item, past.action
        padded[2, 0, 1:number] = gap
        padded[3, 0, :number] = 1
        return Events(*map(jnp.asarray, padded)), jnp.array([number], jnp.int32)

    def _reading(self, events: Events, lengths: Array) -> Reading:
        key = b"".join(np.asarray(part).tobytes() for part in (*jax.tree.leaves(events), lengths))
        with self._lock:
            if (found := self._readings.get(key)) is not None:
                self._readings.move_to_end(key)
                self.hits += 1
                return found
            self.misses += 1
        reading = self._read(self._state, self._identities, events, lengths)
        with self._lock:
            self._readings[key] = reading
            while len(self._readings) > self._kept:
                self._readings.popitem(last=False)
        return reading

    def _traced(self, function: Any) -> Any:
        def traced(*arguments: Any) -> Any:
            self.num_traces += 1
            return function(*arguments)

        return traced


def _read(graph: Any, state: Any, identities: Array, events: Events, lengths: Array) -> Reading:
    return nnx.merge(graph, state).ranker.read(events, identities, lengths)


def _score(
    graph: Any, state: Any, identities: Array, reading: Reading, items: Array, wait: Array
) -> Float[Array, "C A"]:
    logits = nnx.merge(graph, state).ranker.score(reading, identities, items, wait)
    return jax.nn.sigmoid(logits[0, :, :-1])


def _find(
    graph: Any,
    state: Any,
    identities: Array,
    vectors: Array,
    events: Events,
    lengths: Array,
    *,
    most: int,
) -> tuple[Array, Array]:
    model = nnx.merge(graph, state)
    users = user_vectors(model, events, identities, lengths)
    return nearest_items(model.towers.scale * users, vectors, k=most)


def _vectors(graph: Any, state: Any, identities: Array) -> Float[Array, "N E"]:
    towers = nnx.merge(graph, state).towers
    return towers.items(jnp.arange(len(identities), dtype=jnp.int32), identities)
