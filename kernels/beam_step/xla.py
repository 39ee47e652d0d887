"""The beam step in plain XLA: reads the logits for their normaliser, then only the children.

The default where there is no kernel for the chip. `top_k` runs over the `M·C` children; nothing of
the size of the vocabulary is sorted or written.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from kernels.beam_step.types import Beams, BeamStep
from kernels.trie import DEAD_NODE, Children, Live, Trie

# Values a group of the two-stage `top_k`; on CPU, rows of 16 · 16 · k gain, shorter ones do not.
_GROUP = 16


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
    child = trie.children(beams.node, level)
    child = child._replace(valid=child.valid & (child.token < logits.shape[-1]))
    child_logits = _take(logits, child.token).astype(jnp.float32)

    # One pass finds the maximum and whether the row is sound: a maximum hands on NaN and +inf.
    row_max = jnp.max(logits, axis=-1).astype(jnp.float32)
    sound = row_max < jnp.inf
    if log_normalizer is None:
        if normalize == "vocab":
            log_normalizer = _log_sum_exp(logits.astype(jnp.float32), row_max)
        else:
            counted = jnp.where(child.valid, child_logits, -jnp.inf)
            log_normalizer = _log_sum_exp(counted, jnp.max(counted, axis=-1))
    sound &= jnp.isfinite(log_normalizer)
    log_probs = child_logits - log_normalizer[..., None]
    return _select(log_probs, sound, beams, trie, child, live, level, num_beams)


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
    largest = jnp.max(jnp.where(child.valid, candidate_log_probs, -jnp.inf), axis=-1)
    sound = largest < jnp.inf
    return _select(candidate_log_probs, sound, beams, trie, child, live, level, num_beams)


def _take(rows: Array, index: Array) -> Array:
    """Returns `rows[..., index]` row by row, clipped at the ends."""

    def take(row: Array, at: Array) -> Array:
        return row.at[at].get(mode="clip", wrap_negative_indices=False)

    for _ in rows.shape[:-1]:
        take = jax.vmap(take)
    return take(rows, index)


def _log_sum_exp(values: Array, maximum: Array) -> Array:
    """Returns the log-sum-exp of the last axis, given its maximum; -inf of nothing but -inf."""
    shift = jnp.where(jnp.isfinite(maximum), maximum, 0.0)
    return shift + jnp.log(jnp.sum(jnp.exp(values - shift[..., None]), axis=-1))


def _select(
    log_probs: Array,
    sound: Array,
    beams: Beams,
    trie: Trie,
    child: Children,
    live: Live | None,
    level: int,
    num_beams: int,
) -> BeamStep:
    """Returns the best of the children `[B, M, C]` of the beams that are `sound [B, M]`.

    Children are sorted by token and `top_k` prefers the lower index, so ties go to the lower
    parent, then to the lower token.
    """
    # A parent that is dead hands on a score that is not finite, so one test covers both.
    parent_score = jnp.where(sound, beams.score, -jnp.inf)
    score = parent_score[..., None] + log_probs
    candidate = child.valid & jnp.isfinite(score)
    if live is not None:
        candidate &= live.at_children(level, child.node)
    score = jnp.where(candidate, score, -jnp.inf)
    score = jnp.where(score == 0, 0.0, score)  # -0.0 ties with 0.0, but top_k sets them apart.

    batch, num_parents, num_children = score.shape
    kept = min(num_beams, num_parents * num_children)
    score, best = _top_k(score.reshape(batch, -1), kept)
    dead = score == -jnp.inf
    parent = jnp.where(dead, 0, best // num_children)
    # Children are neighbours: the first one and the place among them are the node.
    first = _take(child.node[..., 0], parent)
    node = jnp.where(dead, DEAD_NODE, first + best % num_children)
    token = jnp.where(dead, 0, trie.token_of(node, level))

    def padded(values: Array, fill: float) -> Array:
        return jnp.pad(values, [(0, 0), (0, num_beams - kept)], constant_values=fill)

    return BeamStep(
        token=padded(token, 0),
        parent=padded(parent, 0),
        node=padded(node, DEAD_NODE),
        score=padded(score, -jnp.inf),
    )


def _top_k(values: Array, k: int) -> tuple[Array, Array]:
    """Returns the `k` largest of each row and their places; ties go to the lower place.

    Long rows are cut into groups. Only the `k` groups with the largest maxima can hold one of the
    `k` largest values: each of them has a value at least as large as any of another group's, and,
    where equal, at a lower place. So a second, short `top_k` over those groups is exact.
    """
    batch, size = values.shape
    if size < _GROUP * _GROUP * k:
        return jax.lax.top_k(values, k)
    padding = [(0, 0), (0, -size % _GROUP)]
    groups = jnp.pad(values, padding, constant_values=-jnp.inf).reshape(batch, -1, _GROUP)
    _, chosen = jax.lax.top_k(jnp.max(groups, axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)  # In the order of their places, for the ties.
    values = jnp.take_along_axis(groups, chosen[..., None], axis=1, mode="clip")
    values, best = jax.lax.top_k(values.reshape(batch, -1), k)
    group = _take(chosen, best // _GROUP)
    return values, group * _GROUP + best % _GROUP
