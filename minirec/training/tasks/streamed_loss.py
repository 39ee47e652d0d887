"""Cross-entropy over a large vocabulary, of which only a few positions' logits are there at a time.

Positions go through the head in pieces; the backward pass makes each piece's logits again. Pieces
that nobody asks for cost nothing, and a part of the head that is not trained gets no gradient.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from minirec.models.products import unembed

type Parts = tuple[Float[Array, "part D"], ...]


def streamed_cross_entropy(
    hidden: Float[Array, "B K D"],
    head: Parts,
    targets: Int[Array, "B K"],
    weights: Float[Array, "B K"],
    *,
    at_once: int,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the weighted sum of cross-entropies in nats, and that of right guesses, float32.

    Differentiable once, in reverse mode, in `hidden` and `head`.

    Args:
        hidden: what the head reads, in the compute dtype.
        head: the head's rows, cut into the parts that are stored apart.
        targets: the tokens asked for.
        weights: 0 where nothing is asked. A piece of zeros is skipped, so what is asked for should
            come first in every row.
        at_once: positions of a row whose logits are held at one time.
        label_smoothing: share of the target's probability that is spread over the vocabulary.
    """
    B, K, _ = hidden.shape
    at_once = min(at_once, K)
    pieces = -(-K // at_once)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, pieces * at_once - K)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(B, pieces, at_once, *x.shape[2:]).swapaxes(0, 1)

    return _streamed(cut(hidden), head, cut(targets), cut(weights), label_smoothing)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _streamed(hidden, head, targets, weights, smoothing):
    return _sums(hidden, head, targets, weights, smoothing)[:2]


def _sums(hidden, head, targets, weights, smoothing):
    """Returns loss, hits, and the log-normaliser of every position `[pieces, B, c]`."""

    def asked(h, target, weight):
        logits = _logits(h, head)
        highest = functools.reduce(jnp.maximum, [jnp.max(part, axis=-1) for part in logits])
        total = sum(jnp.sum(jnp.exp(part - highest[..., None]), axis=-1) for part in logits)
        normalizer = highest + jnp.log(total)
        picked = sum(
            jnp.sum(jnp.where(_is_target(part, target, first), part, 0.0), axis=-1)
            for part, first in zip(logits, _firsts(head), strict=True)
        )
        # The lowest token among equals, as argmax has it.
        best = jnp.full(target.shape, -1)
        for part, first in reversed(list(zip(logits, _firsts(head), strict=True))):
            is_best = jnp.max(part, axis=-1) == highest
            best = jnp.where(is_best, first + jnp.argmax(part, axis=-1), best)
        hits = jnp.sum((best == target) * weight)
        if smoothing:
            V = sum(part.shape[0] for part in head)
            mean = sum(jnp.sum(part, axis=-1) for part in logits) / V
            picked = (1.0 - smoothing) * picked + smoothing * mean
        return jnp.sum((normalizer - picked) * weight), hits, normalizer

    def nothing(h, target, weight):
        zero = jnp.zeros((), jnp.float32)
        return zero, zero, jnp.zeros(target.shape, jnp.float32)

    def piece(sums, inputs):
        loss, hits, normalizer = jax.lax.cond(jnp.any(inputs[2] > 0), asked, nothing, *inputs)
        return (sums[0] + loss, sums[1] + hits), normalizer

    zero = jnp.zeros((), jnp.float32)
    (loss, hits), normalizer = jax.lax.scan(piece, (zero, zero), (hidden, targets, weights))
    return loss, hits, normalizer


def _forward(hidden, head, targets, weights, smoothing):
    # None stands for a part that needs no gradient: what is static goes by structure.
    trained = tuple(() if part.perturbed else None for part in head)
    hidden, head, targets, weights = jax.tree.map(
        lambda primal: primal.value, (hidden, head, targets, weights), is_leaf=_is_primal
    )
    loss, hits, normalizer = _sums(hidden, head, targets, weights, smoothing)
    return (loss, hits), (hidden, head, targets, weights, normalizer, trained)


def _backward(smoothing, residuals, cotangents):
    hidden, head, targets, weights, normalizer, trained = residuals
    d_loss, _ = cotangents
    if isinstance(d_loss, SymbolicZero):
        d_loss = jnp.zeros((), jnp.float32)
    V = sum(part.shape[0] for part in head)

    def asked(d_head, h, target, weight, normalizer):
        scale = (weight * d_loss)[..., None]
        d_h, new = jnp.zeros(h.shape, jnp.float32), []
        parts = zip(_logits(h, head), head, _firsts(head), d_head, strict=True)
        for logits, rows, first, d_rows in parts:
            aim = jnp.where(_is_target(logits, target, first), 1.0 - smoothing, 0.0)
            d_logits = jnp.exp(logits - normalizer[..., None]) - aim - smoothing / V
            # In bfloat16 compute, the gradient enters its products as bfloat16 as well.
            d_logits = (d_logits * scale).astype(h.dtype)
            d_h += jnp.tensordot(
                d_logits, rows.astype(h.dtype), 1, preferred_element_type=jnp.float32
            )
            if d_rows is not None:
                over_positions = (((0, 1), (0, 1)), ((), ()))
                d_rows += jax.lax.dot_general(
                    d_logits, h, over_positions, preferred_element_type=jnp.float32
                )
            new.append(d_rows)
        return tuple(new), d_h.astype(h.dtype)

    def nothing(d_head, h, target, weight, normalizer):
        return d_head, jnp.zeros_like(h)

    def piece(d_head, inputs):
        return jax.lax.cond(jnp.any(inputs[2] > 0), asked, nothing, d_head, *inputs)

    zeros = tuple(
        None if is_trained is None else jnp.zeros(part.shape, jnp.float32)
        for part, is_trained in zip(head, trained, strict=True)
    )
    d_head, d_hidden = jax.lax.scan(piece, zeros, (hidden, targets, weights, normalizer))
    d_head = tuple(
        jnp.zeros_like(part) if d_part is None else d_part.astype(part.dtype)
        for part, d_part in zip(head, d_head, strict=True)
    )
    return d_hidden, d_head, None, None


_streamed.defvjp(_forward, _backward, symbolic_zeros=True)


def _logits(hidden: Array, head: Parts) -> list[Array]:
    return [unembed(hidden, part.astype(hidden.dtype)) for part in head]


def _firsts(head: Parts) -> list[int]:
    """Returns each part's first token."""
    firsts, first = [], 0
    for part in head:
        firsts.append(first)
        first += part.shape[0]
    return firsts


def _is_target(logits: Array, target: Array, first: int) -> Array:
    token = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) + first
    return token == target[..., None]


def _is_primal(value: object) -> bool:
    return hasattr(value, "perturbed")
