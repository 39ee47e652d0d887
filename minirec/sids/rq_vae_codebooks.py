"""Codebooks without a gradient: running means, and new life for codes that nothing uses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key

from minirec.sids.rq_vae_model import Codebook, one_hot

_PRECISION = jax.lax.Precision.HIGHEST
# A residual this near to its code, relative to the batch's mean square, needs no other code.
_REPRESENTED = 1e-6


def update_running_sums(
    codebook: Codebook,
    codes: Int32[Array, " B"],
    residuals: Float32[Array, "B Z"],
    decay: float,
    *,
    move: bool,
) -> None:
    """Updates counts and sums by a batch and, with `move`, makes the codes their quotients.

    `counts ← decay · counts + (1 - decay) · n` and the same with the residuals' sums, as in van den
    Oord et al. (2017), appendix A.1. A code that the batch does not hold stays where it is.
    """
    member = one_hot(codes, codebook.counts.shape[0])
    counts = decay * codebook.counts[...] + (1 - decay) * member.sum(axis=0)
    batch_sums = jnp.matmul(member.T, residuals, precision=_PRECISION)
    sums = decay * codebook.sums[...] + (1 - decay) * batch_sums
    codebook.counts[...] = counts
    codebook.sums[...] = sums
    if move:
        means = sums / jnp.maximum(counts, 1e-30)[:, None]
        is_used = (member.sum(axis=0) > 0)[:, None]
        codebook.vectors[...] = jnp.where(is_used, means, codebook.vectors[...])


def revive(
    codebook: Codebook,
    codes: Int32[Array, " B"],
    residuals: Float32[Array, "B Z"],
    key: Key[Array, ""],
    revive_below: float,
) -> Int32[Array, ""]:
    """Moves dead codes onto residuals of the batch and returns how many moved.

    Dead is a code whose running count lies below `revive_below` of an even share. Residuals are
    drawn without replacement, in proportion to their squared distance from their code, as in a
    k-means++ start; those that are represented are not drawn. The moved code starts with the
    running count of an even share.
    """
    size, num_rows = codebook.counts.shape[0], residuals.shape[0]
    share = num_rows / size
    dead = codebook.counts[...] < revive_below * share

    def move() -> tuple[Array, Array, Array, Array]:
        distance = jnp.square(residuals - codebook.vectors[...][codes]).sum(axis=1)
        floor = _REPRESENTED * jnp.square(residuals).sum(axis=1).mean()
        # The largest of log-weight plus Gumbel noise are a draw without replacement.
        weight = jnp.where(distance > floor, jnp.log(distance), -jnp.inf)
        num_candidates = min(size, num_rows)
        noise = jax.random.gumbel(key, (num_rows,), jnp.float32)
        order, row = jax.lax.top_k(weight + noise, num_candidates)
        place = jnp.cumsum(dead) - 1
        moved = dead & (place < num_candidates)
        place = jnp.clip(place, 0, num_candidates - 1)
        moved &= order[place] > -jnp.inf
        vectors = jnp.where(moved[:, None], residuals[row[place]], codebook.vectors[...])
        counts = jnp.where(moved, share, codebook.counts[...])
        sums = jnp.where(moved[:, None], vectors * share, codebook.sums[...])
        return vectors, counts, sums, moved.sum(dtype=jnp.int32)

    def stay() -> tuple[Array, Array, Array, Array]:
        old = codebook.vectors[...], codebook.counts[...], codebook.sums[...]
        return *old, jnp.int32(0)

    needed: Bool[Array, ""] = dead.any()
    vectors, counts, sums, num_moved = jax.lax.cond(needed, move, stay)
    codebook.vectors[...] = vectors
    codebook.counts[...] = counts
    codebook.sums[...] = sums
    return num_moved
