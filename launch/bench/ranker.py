"""The ranker that reads a history once, beside one pass over history and candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from minirec.models import TrunkConfig
from minirec.models.masks import IsolatedCandidatesMask
from minirec.models.ranker import CandidateRanker, Events, RankerConfig
from minirec.models.sid_reader import places_in_example

CASES = ((128, 1000), (512, 100))
"""Events of a history, and candidates."""

_ITEMS, _ACTIONS, _REPEATS = 10_000, 3, 5
_TRUNK = TrunkConfig(
    num_layers=4, width=128, num_heads=4, num_kv_heads=4, head_dim=32, mlp_width=384
)


def run(
    cases: tuple[tuple[int, int], ...] = CASES, trunk: TrunkConfig = _TRUNK
) -> Iterator[dict[str, Any]]:
    """Yields rows by case: one pass, ours with its reading, and ours with the reading kept.

    `ratio` is the time of one pass over ours; `max_difference` the largest distance between logits
    of the two. The pass has every candidate and every event in one row of `S + C` with the mask in
    which a candidate sees the history and itself, as xai-org/x-algorithm has it.

    Args:
        cases: numbers of events and of candidates.
        trunk: shape of the ranker's trunk.
    """
    config = RankerConfig(trunk, _ACTIONS, num_identities=2)
    ranker = CandidateRanker(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    identities = jnp.asarray(rng.integers(1, config.num_buckets, (_ITEMS, 2, 2)), jnp.int32)
    graph, state = nnx.split(ranker)

    @jax.jit
    def read(state: Any, events: Events, lengths: Int[Array, " 1"]) -> Any:
        return nnx.merge(graph, state).read(events, identities, lengths)

    @jax.jit
    def score(state: Any, reading: Any, items: Int[Array, "1 C"], wait: Int[Array, " 1"]) -> Any:
        return nnx.merge(graph, state).score(reading, identities, items, wait)

    @jax.jit
    def whole(state: Any, events: Events, items: Array, wait: Array) -> Float[Array, "1 C A1"]:
        return _one_pass(nnx.merge(graph, state), events, identities, items, wait)

    for S, C in cases:
        item, action, gap = (
            rng.integers(0, most, (1, S)) for most in (_ITEMS, _ACTIONS, 100_000)
        )  # fmt: skip
        gap[:, 0] = 0
        columns = (item, action, gap, np.ones((1, S)))
        events = Events(*(jnp.asarray(column, jnp.int32) for column in columns))
        items = jnp.asarray(rng.integers(0, _ITEMS, (1, C)), jnp.int32)
        lengths, wait = jnp.array([S], jnp.int32), jnp.array([60], jnp.int32)
        reading = jax.block_until_ready(read(state, events, lengths))
        given = (state, events, lengths, items, wait)
        results = {
            "one_pass": _timed(lambda at: whole(at[0], at[1], *at[3:]), given),
            "minirec": _timed(lambda at: score(at[0], read(*at[:3]), *at[3:]), given),
            "minirec_kept": _timed(
                lambda at: score(at[0], at[1], *at[3:]), (state, reading, lengths, items, wait)
            ),
        }
        slow, theirs = results["one_pass"]
        for name, (seconds, logits) in results.items():
            row: dict[str, Any] = {
                "benchmark": "ranker",
                "implementation": name,
                "events": S,
                "candidates": C,
                "ms": round(1e3 * seconds, 2),
                "candidates_per_s": round(C / seconds),
            }
            if name != "one_pass":
                row |= {
                    "ratio": round(slow / seconds, 2),
                    "max_difference": float(np.abs(np.asarray(logits) - theirs).max()),
                }
            yield row


def _one_pass(
    ranker: CandidateRanker, events: Events, identities: Array, items: Array, wait: Array
) -> Float[Array, "1 C A1"]:
    """Returns the logits of candidates by one dense pass, every pair of places with its product."""
    S, C = events.item.shape[1], items.shape[1]
    lengths = jnp.array([S], jnp.int32)
    padded = events.with_place_behind(lengths)
    tokens = ranker._tokens(padded, identities)
    before = (jnp.arange(S + 1) < S)[None, None]
    asked = ranker._candidates(padded, identities, items[:, None], before, wait[:, None])[:, 0]
    candidate = jnp.maximum(jnp.arange(S + 1 + C, dtype=jnp.int32) - S, 0)[None]
    history = places_in_example(padded.segment)
    positions = jnp.concatenate([history, jnp.full((1, C), S + 1, jnp.int32)], axis=1)
    hidden = ranker.trunk(
        jnp.concatenate([tokens, asked], axis=1),
        positions,
        IsolatedCandidatesMask(candidate),
        segment_ids=jnp.ones_like(positions),
    )
    return ranker._logits(hidden[:, S + 1 :])


def _timed(work: Callable[[Any], Any], given: Any) -> tuple[float, np.ndarray]:
    """Returns the median of a few times in seconds, after one that does not count."""
    result = jax.block_until_ready(work(given))
    spent = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        result = jax.block_until_ready(work(given))
        spent.append(time.perf_counter() - begin)
    return float(np.median(spent)), np.asarray(result)
