"""Candidates of the towers, of the history and of whoever else names some, judged by the ranker."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Int32

from minirec.models.feed import FeedModel
from minirec.models.ranker import Events
from minirec.recommend.index import nearest_items
from minirec.recommend.ranked_lists import RankedLists


class Judged(NamedTuple):
    """What was found for `B` users.

    Attributes:
        item: candidates, the most probable next item first; -1 behind the last.
        logits: of the candidates, as the ranker returns them; -inf where there is none.
        retrieved: items that the towers found, best first; -1 behind the last.
        retrieved_logit: their logits; -inf where there is none.
    """

    item: Int32[np.ndarray, "B C"]
    logits: Float[np.ndarray, "B C A1"]
    retrieved: Int32[np.ndarray, "B K"]
    retrieved_logit: Float[np.ndarray, "B K"]


class FeedSearcher:
    """Finds and judges candidates; compiled once a shape.

    Attributes:
        num_retrieved: items that the towers name.
    """

    def __init__(self, identities: Int32[np.ndarray, "N F hashes"], *, num_retrieved: int):
        """Makes the shell; compiles nothing yet.

        Args:
            identities: rows of every item's identities.
            num_retrieved: items that the towers name, at most all.
        """
        self.num_retrieved = min(num_retrieved, len(identities))
        self._identities = jnp.asarray(identities)
        self._vectors = jax.jit(self._items, static_argnums=0)
        self._judge = jax.jit(
            functools.partial(_judge, num_retrieved=self.num_retrieved), static_argnums=0
        )

    def of(self, model: FeedModel) -> Asked:
        """Returns what judges with a model: every item has its vector then."""
        graph, state = nnx.split(model)
        vectors = self._vectors(graph, state, self._identities)
        return Asked(functools.partial(self._judge, graph, state, self._identities, vectors))

    @staticmethod
    def _items(graph: Any, state: Any, identities: Array) -> Float[Array, "N E"]:
        towers = nnx.merge(graph, state).towers
        return towers.items(jnp.arange(len(identities), dtype=jnp.int32), identities)


class Asked:
    """A model that judges candidates, with the vectors of all items."""

    def __init__(self, judge: Any):
        self._judge = judge

    def __call__(
        self,
        batch: Mapping[str, np.ndarray],
        given: Int[np.ndarray, "B G"],
        *,
        excluded: Int[np.ndarray, "B E"] | None = None,
    ) -> Judged:
        """Returns the candidates of some users, judged.

        Args:
            batch: histories from the left, `item`, `event`, `gap` `[B, P]`, `lengths` and `wait`
                `[B]`, the seconds since each history's newest event.
            given: further candidates, -1 pads.
            excluded: items that a user shall not get, -1 pads.
        """
        names = ("item", "event", "gap", "lengths", "wait")
        arrays = [jnp.asarray(batch[name], jnp.int32) for name in names]
        if excluded is None:
            excluded = np.full((len(given), 1), -1, np.int32)
        found = self._judge(*arrays, jnp.asarray(given, jnp.int32), jnp.asarray(excluded))
        return Judged(*(np.asarray(array) for array in found))


def _judge(
    graph: Any,
    state: Any,
    identities: Array,
    vectors: Float[Array, "N E"],
    item: Int[Array, "B P"],
    event: Int[Array, "B P"],
    gap: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    wait: Int[Array, " B"],
    given: Int[Array, "B G"],
    excluded: Int[Array, "B E"],
    *,
    num_retrieved: int,
) -> tuple[Array, Array, Array, Array]:
    model = nnx.merge(graph, state)
    P = item.shape[1]
    segment = (jnp.arange(P, dtype=jnp.int32) < lengths[:, None]).astype(jnp.int32)
    events = Events(item, event, gap, segment)
    users = model.towers.scale * user_vectors(model, events, identities, lengths)
    retrieved, best = nearest_items(users, vectors, excluded=excluded, k=num_retrieved)
    candidates = jnp.concatenate([jnp.where(segment > 0, item, -1), retrieved, given], axis=1)
    wanted = _first(candidates) & ~(candidates[..., None] == excluded[:, None]).any(-1)
    reading = model.ranker.read(events, identities, lengths)
    judged = model.ranker.score(reading, identities, jnp.maximum(candidates, 0), wait)
    judged = jnp.where(wanted[..., None], judged, -jnp.inf)
    order = jnp.argsort(-judged[..., -1], axis=1, stable=True)
    ranked = jnp.take_along_axis(jnp.where(wanted, candidates, -1), order, axis=1)
    judged = jnp.take_along_axis(judged, order[..., None], axis=1)
    return ranked, judged, retrieved, best


def user_vectors(model: FeedModel, events: Events, identities: Array, lengths: Array) -> Array:
    """Returns the vectors of whole histories: at the place behind their last events."""
    vectors = model.towers.users(events.with_place_behind(lengths), identities)
    return jnp.take_along_axis(vectors, lengths[:, None, None], axis=1)[:, 0]


def _first(candidates: Int[Array, "B C"]) -> Bool[Array, "B C"]:
    """Returns which candidates are items that stand for the first time in their row."""
    order = jnp.argsort(candidates, axis=1, stable=True)
    ordered = jnp.take_along_axis(candidates, order, axis=1)
    new = jnp.pad(ordered[:, 1:] != ordered[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    back = jnp.argsort(order, axis=1, stable=True)
    return jnp.take_along_axis(new, back, axis=1) & (candidates >= 0)


def ranked_lists(
    item: Int[np.ndarray, "B C"], logit: Float[np.ndarray, "B C"], k: int
) -> RankedLists:
    """Returns the first `k` candidates with their shares of the probability of all.

    Args:
        item: best first, -1 behind the last.
        logit: -inf where there is none.
        k: items a list.
    """
    highest = np.max(logit, axis=1, keepdims=True, initial=-1e30)
    power = np.exp(np.where(item >= 0, logit - highest, -np.inf).astype(np.float64))
    share = power / np.maximum(power.sum(axis=1, keepdims=True), 1e-300)
    return RankedLists(item[:, :k].astype(np.int32), share[:, :k])
