"""The beam step in plain XLA: the fast one where the chip has no kernel.

Only log-probabilities of candidates are computed, and no mask over the vocabulary is made but where
a trie's table is one. A row's maximum and sum are the only passes over its logits.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from kernels.beam_step.types import Beams, BeamStep
from kernels.trie import DEAD_NODE, Live, Trie
from kernels.trie.tables import MaskTable, take

# Values a group of the two-stage `top_k`, and from how many times `k` groups a row gains; on CPU.
_GROUP = 32
_GAIN = 8


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
    token, valid = _candidates(beams, trie, level)
    # A token past the row's end has no logit, so it is no candidate and counts in no sum.
    valid &= token < logits.shape[-1]
    child_logits = _child_logits(logits, token, valid, trie, level).astype(jnp.float32)

    if log_normalizer is None and normalize == "vocab":
        # A row with NaN or +inf has no finite sum, so this is all that has to read it.
        log_normalizer = _log_sum_exp(logits)
        sound = jnp.isfinite(log_normalizer)
    else:
        if log_normalizer is None:
            counted = jnp.where(valid, child_logits, -jnp.inf)
            log_normalizer = _log_sum_exp(counted.reshape(*beams.node.shape, -1))
        sound = _all_below_infinity(logits, axes=(-1,)) & jnp.isfinite(log_normalizer)
    log_probs = child_logits - _over(log_normalizer, valid)
    return _select(log_probs, valid, sound, beams, trie, live, level, num_beams)


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
    _, valid = _candidates(beams, trie, level)
    log_probs = _padded_to(candidate_log_probs, valid.shape)
    read = jnp.where(valid, log_probs, -jnp.inf)
    sound = _all_below_infinity(read, axes=tuple(range(2, valid.ndim)))
    return _select(log_probs, valid, sound, beams, trie, live, level, num_beams)


def _candidates(
    beams: Beams, trie: Trie, level: int
) -> tuple[Int32[Array, " ..."], Bool[Array, "B M ..."]]:
    """Returns the columns' tokens and which columns are children.

    The columns of a mask, `[B, M, blocks, chunks, 128]`, keep the shape in which its bits lie, and
    have the same tokens in every row; others are `[B, M, C]`.
    """
    table = trie.table_at(level)
    if isinstance(table, MaskTable):
        valid = table.bits(beams.node)
        column = jnp.arange(math.prod(valid.shape[2:]), dtype=jnp.int32)
        return (table.capacities.first_token + column).reshape(valid.shape[2:]), valid
    found = table.edges(beams.node, level)
    return found.token, found.valid


def _child_logits(
    logits: Array, token: Array, valid: Array, trie: Trie, level: int
) -> Float[Array, "B M ..."]:
    """Returns the logits of the columns' tokens; those of a mask are neighbours."""
    table = trie.table_at(level)
    if isinstance(table, MaskTable):
        sizes = table.capacities
        window = logits[..., sizes.first_token : sizes.first_token + sizes.span]
        return _padded_to(window, valid.shape)
    return _take(logits, token)


def _padded_to(values: Array, shape: tuple[int, ...]) -> Array:
    """Returns columns `[B, M, C]` in a mask's shape, which may have room for some more."""
    # A mask's last line may have bits past the span, all 0: whatever is put there is not read.
    missing = math.prod(shape[2:]) - values.shape[-1]
    return jnp.pad(values, [(0, 0), (0, 0), (0, missing)]).reshape(shape)


def _over(rows: Array, columns: Array) -> Array:
    """Returns `rows [B, M]` with axes of 1 for those of the columns."""
    return rows.reshape(*rows.shape, *(1 for _ in columns.shape[2:]))


def _take(rows: Array, index: Array) -> Array:
    """Returns `rows[..., index]` row by row, clipped at the ends."""
    function = take
    for _ in rows.shape[:-1]:
        function = jax.vmap(function)
    return function(rows, index)


def _all_below_infinity(values: Array, axes: tuple[int, ...]) -> Array:
    """Returns whether there is neither NaN nor +inf; a maximum may pass over NaN on CPU."""
    return jnp.all(values < jnp.inf, axis=axes)


def _log_sum_exp(values: Array) -> Array:
    """Returns the log-sum-exp of the last axis, float32.

    It is -inf of nothing but -inf, and not finite where there is NaN or +inf. The maximum is that
    of the values as they are: bfloat16 ones would be stored in float32 for it.
    """
    maximum = jnp.max(values, axis=-1).astype(jnp.float32)
    # -inf - -inf would be NaN of a row that is -inf throughout.
    shift = jnp.where(jnp.isfinite(maximum), maximum, 0.0)
    return shift + jnp.log(jnp.sum(jnp.exp(values.astype(jnp.float32) - shift[..., None]), axis=-1))


def _select(
    log_probs: Array,
    valid: Array,
    sound: Array,
    beams: Beams,
    trie: Trie,
    live: Live | None,
    level: int,
    num_beams: int,
) -> BeamStep:
    """Returns the best of the `valid` columns of the beams that are `sound [B, M]`.

    Columns are sorted by token and `top_k` prefers the lower index, so ties go to the lower
    parent, then to the lower token.
    """
    # A parent that is dead hands on a score that is not finite, so one test covers both.
    parent_score = jnp.where(sound, beams.score, -jnp.inf)
    score = _over(parent_score, valid) + log_probs
    candidate = valid & jnp.isfinite(score)
    if live is not None:
        candidate &= _padded_to(trie.live_children(live, beams.node, level), valid.shape)
    score = jnp.where(candidate, score, -jnp.inf)
    score = jnp.where(score == 0, 0.0, score)  # -0.0 ties with 0.0, but top_k sets them apart.

    batch, num_parents = beams.node.shape
    score = score.reshape(batch, -1)
    columns = score.shape[-1] // num_parents
    # `top_k` cannot give more than there are; the rest is padded with dead beams.
    kept = min(num_beams, score.shape[-1])
    score, best = _top_k(score, kept)
    dead = score == -jnp.inf
    parent, column = best // columns, best % columns

    # Only now, for the few that won: their tokens and where they lead.
    above = _take(beams.node, parent)
    table = trie.table_at(level)
    if isinstance(table, MaskTable):
        token = table.capacities.first_token + column
        edge = table.edge_of(above, token)
    else:
        edge = above + column
        token = table.token_at(edge, level)
    node = trie.below(edge, level)

    def padded(values: Array, fill: float) -> Array:
        values = jnp.where(dead, fill, values)
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
    # Then the two stages' own work outweighs what they leave out.
    if size < _GAIN * _GROUP * k:
        return jax.lax.top_k(values, k)
    padding = [(0, 0), (0, -size % _GROUP)]
    groups = jnp.pad(values, padding, constant_values=-jnp.inf).reshape(batch, -1, _GROUP)
    _, chosen = jax.lax.top_k(jnp.max(groups, axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)  # In the order of their places, for the ties.
    values = jnp.take_along_axis(groups, chosen[..., None], axis=1, mode="clip")
    values, best = jax.lax.top_k(values.reshape(batch, -1), k)
    group = _take(chosen, best // _GROUP)
    return values, group * _GROUP + best % _GROUP
