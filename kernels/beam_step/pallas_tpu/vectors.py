"""What the kernels of the beam step on TPU share: registers, order-preserving keys, stages."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# A vector register holds 8 sublanes of 128 lanes, each lane 32 bits wide.
LANES = 128
SUBLANES = 8
INT32_MIN = -(2**31)

# The bits of -inf are 0xFF800000; with the lower 31 of them flipped they are 0x807FFFFF.
DEAD_KEY = INT32_MIN + 0x007FFFFF
"""The key of `-inf`: no candidate. No finite score has a key so small."""


def keys_of(score: jax.Array) -> jax.Array:
    """Returns int32 keys in the order of float32 scores without NaN; -0.0 is less than 0."""
    # As an int32, a float's bits rise with it while it is positive; a negative one's sign stands
    # apart from its magnitude, so its bits fall. The arithmetic shift makes all ones of a negative
    # number's sign and zeros of another's, and the other 31 bits are flipped or not.
    bits = pltpu.bitcast(score, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def scores_of(key: jax.Array) -> jax.Array:
    """Returns the scores of `keys_of`."""
    # The sign is where it was, so the same flip undoes itself.
    return pltpu.bitcast(key ^ ((key >> 31) & 0x7FFFFFFF), jnp.float32)


def loop(trips: int, body: Callable[[Any], Generator[None]], *, unroll: int) -> None:
    """Runs `body(i)` for each `i < trips`, `unroll` of them stage by stage.

    A body is a generator that yields where it waits for the matrix unit or a cross-lane unit. The
    compiler keeps much of the order in which a kernel is written, so the stages of several turns
    are written next to each other, and their latencies overlap.
    """

    def together(turns: Iterable[Any]) -> None:
        for _ in side_by_side([body(i) for i in turns]):
            pass

    # What is left over, or all of it where that is no more than one round, is written out: without
    # a loop its indices are Python's integers, and addresses are constants.
    whole = trips - trips % unroll
    if trips <= unroll:
        whole = 0
    if whole:

        @pl.loop(0, whole // unroll)
        def _(turn):
            together([turn * unroll + i for i in range(unroll)])

    together(range(whole, trips))


def side_by_side(turns: list[Generator[None]]) -> Generator[None]:
    """Runs generators stage by stage; itself one more such generator."""
    finished = object()
    while turns:
        turns = [turn for turn in turns if next(turn, finished) is not finished]
        yield


def iota(shape: tuple[int, ...], axis: int) -> jax.Array:
    """Returns the place along an axis, int32."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def dot(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Returns the matrix product, added up in float32."""
    # The product of two bfloat16 numbers has 16 significant bits, so float32 holds it exactly; a
    # sum of whole numbers stays exact up to 2^24.
    return jnp.dot(lhs, rhs, preferred_element_type=jnp.float32)


def ones_where(condition: jax.Array) -> jax.Array:
    """Returns 1 where a condition holds, else 0, in bfloat16."""
    # Both are exact in bfloat16: a product with such a matrix counts, or picks, without rounding.
    return jnp.where(condition, 1.0, 0.0).astype(jnp.bfloat16)


def sum_sublanes(values: jax.Array) -> jax.Array:
    """Returns the sum over the sublanes, `[1, 128]`."""
    return jnp.sum(values, axis=0, keepdims=True)


def tree(operation: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    """Returns the values combined, in pairs rather than in a row."""
    # As deep as the logarithm of their number: fewer instructions wait for the one before. A sum's
    # rounding follows from this order as well, so it is part of the result.
    while len(values) > 1:
        pairs = [operation(*pair) for pair in zip(values[::2], values[1::2], strict=False)]
        values = pairs + (values[-1:] if len(values) % 2 else [])
    return values[0]
