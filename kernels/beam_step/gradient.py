"""The gradient of the beam step's scores, the same for every implementation.

A new score is `parent score + logit - log normaliser`, so its gradient follows from the integers
that the step returned; how they were found does not matter. Integers carry no gradient. Only the
backward pass computes anything: the forward pass keeps its own arguments and results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from kernels.beam_step.types import Beams, BeamStep
from kernels.trie import DEAD_NODE, Live, Trie

# Arguments that are not arrays. The others are pytrees; `None` is the cotangent of those of them
# that hold only integers.
_STEP_STATIC = (0, 1, 2, 3)
_SELECT_STATIC = (0, 1, 2)


def beam_step(
    run: Callable[..., BeamStep],
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
    """Returns what `run`, an implementation's `beam_step`, returns of the other arguments.

    Its scores are differentiable in `logits`, `beams.score` and `log_normalizer`. Dead beams, and
    rows of logits from which no beam grew, broken ones among them, have the gradient zero.
    """
    if not _traced(logits, beams.score, log_normalizer):
        return run(
            logits,
            beams,
            trie,
            level,
            num_beams=num_beams,
            normalize=normalize,
            log_normalizer=log_normalizer,
            live=live,
        )
    arrays = (logits, beams.score, log_normalizer, beams.node, trie, live)
    return _step(run, level, num_beams, normalize, *arrays)


def beam_select(
    run: Callable[..., BeamStep],
    candidate_log_probs: Float32[Array, "B M C"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    live: Live | None,
) -> BeamStep:
    """Returns what `run`, an implementation's `beam_select`, returns of the other arguments.

    Its scores are differentiable in `candidate_log_probs` and `beams.score`.
    """
    if not _traced(candidate_log_probs, beams.score):
        return run(candidate_log_probs, beams, trie, level, num_beams=num_beams, live=live)
    arrays = (candidate_log_probs, beams.score, beams.node, trie, live)
    return _select(run, level, num_beams, *arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=_STEP_STATIC)
def _step(
    run: Callable[..., BeamStep],
    level: int,
    num_beams: int,
    normalize: str,
    logits: Array,
    score: Array,
    log_normalizer: Array | None,
    node: Array,
    trie: Trie,
    live: Live | None,
) -> BeamStep:
    return run(
        logits,
        Beams(node=node, score=score),
        trie,
        level,
        num_beams=num_beams,
        normalize=normalize,
        log_normalizer=log_normalizer,
        live=live,
    )


def _step_forward(
    run: Callable[..., BeamStep], level: int, num_beams: int, normalize: str, *arrays: Any
) -> tuple[BeamStep, tuple[Any, ...]]:
    step = _step(run, level, num_beams, normalize, *arrays)
    logits, _, log_normalizer, node, trie, _ = arrays
    siblings = (node, trie) if normalize == "children" else None
    return step, (logits, log_normalizer, siblings, step)


def _step_backward(
    run: Callable[..., BeamStep],
    level: int,
    num_beams: int,
    normalize: str,
    kept: tuple[Any, ...],
    cotangent: BeamStep,
) -> tuple[Any, ...]:
    logits, log_normalizer, siblings, step = kept
    by_beam, by_parent, grown = _from_scores(step, cotangent.score, logits.shape[1])
    rows = logits.astype(jnp.float32)
    b, m = jnp.indices(grown.shape, dtype=jnp.int32, sparse=True)
    if log_normalizer is not None:
        by_logit = jnp.zeros_like(rows)
        by_normalizer = -by_parent
    elif siblings is None:
        by_logit = -_softmax(rows, grown) * by_parent[..., None]
        by_normalizer = None
    else:
        node, trie = siblings
        child = trie.children(node, level)
        # Past the row's end there is no logit, so no gradient either: `drop`.
        column = jnp.where(child.valid, child.token, rows.shape[-1])
        counted = rows.at[b[..., None], m[..., None], column].get(mode="fill", fill_value=-jnp.inf)
        by_child = -_softmax(counted, grown) * by_parent[..., None]
        by_logit = jnp.zeros_like(rows)
        by_logit = by_logit.at[b[..., None], m[..., None], column].add(by_child, mode="drop")
        by_normalizer = None
    # A score is `parent + logit - normaliser`: the chosen logit has the score's own gradient, and
    # the row, by its normaliser, the softmax times minus the sum over the beams that grew from it.
    by_logit = by_logit.at[b, step.parent, step.token].add(by_beam)
    return by_logit.astype(logits.dtype), by_parent, by_normalizer, None, None, None


_step.defvjp(_step_forward, _step_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=_SELECT_STATIC)
def _select(
    run: Callable[..., BeamStep],
    level: int,
    num_beams: int,
    log_probs: Array,
    score: Array,
    node: Array,
    trie: Trie,
    live: Live | None,
) -> BeamStep:
    beams = Beams(node=node, score=score)
    return run(log_probs, beams, trie, level, num_beams=num_beams, live=live)


def _select_forward(
    run: Callable[..., BeamStep], level: int, num_beams: int, *arrays: Any
) -> tuple[BeamStep, tuple[Any, ...]]:
    step = _select(run, level, num_beams, *arrays)
    _, _, node, trie, _ = arrays
    # Of the log-probabilities only the shape is needed, and the number of columns is the trie's.
    return step, (node, trie, step)


def _select_backward(
    run: Callable[..., BeamStep],
    level: int,
    num_beams: int,
    kept: tuple[Any, ...],
    cotangent: BeamStep,
) -> tuple[Any, ...]:
    node, trie, step = kept
    by_beam, by_parent, _ = _from_scores(step, cotangent.score, node.shape[1])
    siblings = trie.children(jnp.take_along_axis(node, step.parent, axis=1), level)
    chosen = siblings.valid & (siblings.token == step.token[..., None])
    column = jax.lax.argmax(chosen, chosen.ndim - 1, jnp.int32)
    by_log_prob = jnp.zeros((*node.shape, trie.max_children(level)), jnp.float32)
    b = jnp.arange(node.shape[0], dtype=jnp.int32)[:, None]
    by_log_prob = by_log_prob.at[b, step.parent, column].add(by_beam)
    return by_log_prob, by_parent, None, None, None


_select.defvjp(_select_forward, _select_backward)


def _traced(*arrays: Array | None) -> bool:
    """Returns whether a gradient can be asked for: outside any trace, the wrapper only costs."""
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def _from_scores(
    step: BeamStep, cotangent: Float32[Array, "B num_beams"], num_parents: int
) -> tuple[Array, Array, Array]:
    """Returns the cotangents by new beam and by parent, and which parents any beam grew from.

    What is asked of a dead beam's score counts as zero, whatever it is: `-inf` is a constant.
    """
    alive = step.node != DEAD_NODE
    by_beam = jnp.where(alive, cotangent, 0.0)
    b = jnp.arange(step.parent.shape[0], dtype=jnp.int32)[:, None]
    by_parent = jnp.zeros((step.parent.shape[0], num_parents), jnp.float32)
    by_parent = by_parent.at[b, step.parent].add(by_beam)
    grown = jnp.zeros(by_parent.shape, bool).at[b, step.parent].max(alive)
    return by_beam, by_parent, grown


def _softmax(values: Float32[Array, "B M X"], wanted: Array) -> Float32[Array, "B M X"]:
    """Returns the softmax of the rows that are `wanted [B, M]`, 0 in the others.

    From a row that a beam grew from, all values are below `+inf`, and one is finite. The others may
    hold anything, which must not reach the gradient as `0 · NaN`.
    """
    return jax.nn.softmax(jnp.where(wanted[..., None], values, 0.0), axis=-1) * wanted[..., None]
