"""Matrix products whose gradients are written out.

Automatic differentiation gives a weight's gradient as the transpose of a product. XLA's CPU
backend folds that into a product over scattered memory, outside its fast kernels: two times slower
in float32, thirty times in bfloat16 for `[B, T, D] @ [D, F]`. Asking for the axes in the order in
which they are stored avoids it; on other backends it is the same product.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(
    x: Float[Array, "*batch *inner"], weight: Float[Array, "*inner *outer"], num_inner: int = 1
) -> Float[Array, "*batch *outer"]:
    """Returns the product over the last `num_inner` axes of `x` and the first of `weight`.

    Both have the same dtype. Differentiable once, in reverse mode.
    """
    return jnp.tensordot(x, weight, num_inner)


def _project_forward(x, weight, num_inner):
    return project(x, weight, num_inner), (x, weight)


def _project_backward(num_inner, residuals, d_out):
    x, weight = residuals
    batch = tuple(range(x.ndim - num_inner))
    outer = tuple(range(len(batch), d_out.ndim)), tuple(range(num_inner, weight.ndim))
    d_x = jax.lax.dot_general(d_out, weight, (outer, ((), ())))
    d_weight = jax.lax.dot_general(x, d_out, ((batch, batch), ((), ())))
    return d_x, d_weight


project.defvjp(_project_forward, _project_backward)


@jax.custom_vjp
def unembed(
    hidden: Float[Array, "*batch D"], rows: Float[Array, "V D"]
) -> Float[Array, "*batch V"]:
    """Returns float32 logits, the products of `hidden` with every row of a head.

    Both have the same dtype. Differentiable once, in reverse mode.
    """
    dimensions = (((hidden.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(hidden, rows, dimensions, preferred_element_type=jnp.float32)


def _unembed_forward(hidden, rows):
    return unembed(hidden, rows), (hidden, rows)


def _unembed_backward(residuals, d_logits):
    hidden, rows = residuals
    # In bfloat16 compute, the gradient enters its products as bfloat16 as well.
    d_logits = d_logits.astype(hidden.dtype)
    batch = tuple(range(hidden.ndim - 1))
    d_rows = jax.lax.dot_general(d_logits, hidden, ((batch, batch), ((), ())))
    return jnp.tensordot(d_logits, rows, 1), d_rows


unembed.defvjp(_unembed_forward, _unembed_backward)
