"""The ranker over every item of a catalogue: what evaluation asks of a few users."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32

from minirec.models.feed import FeedModel
from minirec.models.ranker import Events

_PIECE = 1024  # Candidates of a user that are judged at one time.


class AllItems:
    """Judges all items for the users of a batch; compiled once a shape."""

    def __init__(self, model: FeedModel, identities: Int32[np.ndarray, "N F hashes"]):
        """Compiles nothing yet.

        Args:
            model: whose ranker judges.
            identities: rows of every item's identities.
        """
        graph, self._state = nnx.split(model)
        self._identities = jnp.asarray(identities)
        self._judge = jax.jit(functools.partial(_judge, graph))

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B N A1"]:
        """Returns the logits of every item, as the ranker has them.

        Args:
            batch: histories from the left, as `minirec.recommend.feed.searcher.Asked` takes them.
        """
        names = ("item", "event", "gap", "lengths", "wait")
        arrays = [jnp.asarray(batch[name], jnp.int32) for name in names]
        found = self._judge(self._state, self._identities, *arrays)
        return np.asarray(found)[:, : len(self._identities)]


def _judge(
    graph: Any,
    state: Any,
    identities: Array,
    item: Array,
    event: Array,
    gap: Array,
    lengths: Array,
    wait: Array,
) -> Float[Array, "B M A1"]:
    ranker = nnx.merge(graph, state).ranker
    reading = ranker.read(Events(item, event, gap, item), identities, lengths)
    size = min(_PIECE, len(identities))
    pieces = -(-len(identities) // size)
    items = jnp.minimum(jnp.arange(pieces * size, dtype=jnp.int32), len(identities) - 1)

    def piece(some: Array) -> Array:
        asked = jnp.broadcast_to(some, (len(item), size))
        return ranker.score(reading, identities, asked, wait)

    found = jax.lax.map(piece, items.reshape(pieces, size))  # [pieces, B, size, A1]
    return jnp.moveaxis(found, 0, 1).reshape(len(item), pieces * size, -1)
