"""The beam step, spelled out: a score for every beam and token, one stable sort. The oracle.

Says what is right for every other implementation, and takes the memory of a dense
`[B, M·V]` table to say it plainly.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from kernels.beam_step.types import Beams, BeamStep
from kernels.trie import DEAD_NODE, Live, Trie


@functools.partial(jax.jit, static_argnames=("level", "num_beams", "normalize"))
def beam_step(
    logits: Float[Array, "B M V"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    normalize: str,
    log_normalizer: Float32[Array, "B M"] | None,
    live: Live | None,
) -> BeamStep:
    """Returns the best beams; see `kernels.beam_step.beam_step`."""
    logits = logits.astype(jnp.float32)
    batch, num_parents, vocab = logits.shape

    # node[b, m, v]: the child of beam m by token v, DEAD_NODE where there is none.
    child = trie.children(beams.node, level)
    b, m = jnp.indices((batch, num_parents), dtype=jnp.int32)
    column = jnp.where(child.valid, child.token, vocab)
    node = jnp.full((batch, num_parents, vocab), DEAD_NODE, jnp.int32)
    node = node.at[b[..., None], m[..., None], column].set(child.node, mode="drop")
    is_child = node != DEAD_NODE
    if live is not None:  # What is not live is not a candidate, but still counts as a child.
        kept = jnp.where(trie.live_children(live, beams.node, level), child.node, DEAD_NODE)
        node = node.at[b[..., None], m[..., None], column].set(kept, mode="drop")

    if log_normalizer is None:
        counted = logits if normalize == "vocab" else jnp.where(is_child, logits, -jnp.inf)
        log_normalizer = jax.nn.logsumexp(counted, axis=-1)
    log_probs = logits - log_normalizer[..., None]

    broken = jnp.any(jnp.isnan(logits) | (logits == jnp.inf), axis=-1)
    # -inf of a row that holds nothing else; NaN and infinities of a normaliser that was given.
    broken |= ~jnp.isfinite(log_normalizer)
    return _select(log_probs, beams.score, broken, node, num_beams)


@functools.partial(jax.jit, static_argnames=("level", "num_beams"))
def beam_select(
    candidate_log_probs: Float32[Array, "B M C"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    live: Live | None,
) -> BeamStep:
    """Returns the best beams; see `kernels.beam_step.beam_select`."""
    child = trie.children(beams.node, level)
    impossible = jnp.isnan(candidate_log_probs) | (candidate_log_probs == jnp.inf)
    broken = jnp.any(child.valid & impossible, axis=-1)
    node = child.node
    if live is not None:
        node = jnp.where(trie.live_children(live, beams.node, level), node, DEAD_NODE)
    step = _select(candidate_log_probs, beams.score, broken, node, num_beams)
    # Here a column is a place among the children, not yet a token.
    b = jnp.arange(step.token.shape[0], dtype=jnp.int32)[:, None]
    return BeamStep(
        token=child.token[b, step.parent, step.token] * (step.node != DEAD_NODE),
        parent=step.parent,
        node=step.node,
        score=step.score,
    )


def _select(
    log_probs: Array,
    parent_score: Array,
    broken: Array,
    node: Array,
    num_beams: int,
) -> BeamStep:
    """Returns the best of the candidates `[B, M, X]` that have a node; `token` is the column.

    Columns rise with the token, so that a stable sort of the flattened candidates breaks ties by
    parent, then token.
    """
    dead_parent = broken | ~jnp.isfinite(parent_score)
    # In this order, which all implementations keep: float32 sums depend on it.
    score = parent_score[..., None] + log_probs
    candidate = (node != DEAD_NODE) & ~dead_parent[..., None] & jnp.isfinite(score)
    score = jnp.where(candidate, score, -jnp.inf)
    score = jnp.where(score == 0, 0.0, score)  # -0.0 ties with 0.0.

    batch, num_parents, num_columns = score.shape
    missing = max(num_beams - num_parents * num_columns, 0)
    score = score.reshape(batch, -1)
    score = jnp.pad(score, [(0, 0), (0, missing)], constant_values=-jnp.inf)
    node = jnp.pad(node.reshape(batch, -1), [(0, 0), (0, missing)], constant_values=DEAD_NODE)

    # `argsort`, with places that are int32 whatever JAX's integers are.
    place = jax.lax.broadcasted_iota(jnp.int32, score.shape, 1)
    _, best = jax.lax.sort((-score, place), num_keys=1, is_stable=True)
    best = best[:, :num_beams]
    score = jnp.take_along_axis(score, best, axis=-1)
    dead = score == -jnp.inf
    return BeamStep(
        token=jnp.where(dead, 0, best % num_columns),
        parent=jnp.where(dead, 0, best // num_columns),
        node=jnp.where(dead, DEAD_NODE, jnp.take_along_axis(node, best, axis=-1)),
        score=score,
    )
