"""What a logit is: the one product that every implementation of the fused head must agree on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32


def logits_of(rows: Float[Array, "R D"], head: Float[Array, "X D"]) -> Float32[Array, "R X"]:
    """Returns `rows @ head.T`, added up in float32.

    Float32 factors are multiplied in float32 (chips round them to bfloat16 unless told);
    products of bfloat16 factors are exact in float32 anyway.
    """
    highest = jax.lax.Precision.HIGHEST if rows.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        rows,
        head,
        (((1,), (1,)), ((), ())),
        precision=highest,
        preferred_element_type=jnp.float32,
    )
