"""Products with written-out gradients against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minirec.models.products import project, unembed


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    ("x", "weight", "num_inner"),
    [((2, 3, 4), (4, 5), 1), ((2, 3, 4), (4, 5, 2), 1), ((2, 3, 5, 2), (5, 2, 4), 2)],
)
def test_project_is_a_tensor_product_with_its_gradients(x, weight, num_inner):
    x, weight = normal(0, *x), normal(1, *weight)
    expected, expected_vjp = jax.vjp(lambda x, w: jnp.tensordot(x, w, num_inner), x, weight)
    out, vjp = jax.vjp(lambda x, w: project(x, w, num_inner), x, weight)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    for gradient, right in zip(vjp(out), expected_vjp(out), strict=True):
        np.testing.assert_allclose(gradient, right, rtol=1e-5, atol=1e-5)


def test_unembed_multiplies_with_every_row_and_has_its_gradients():
    hidden, rows = normal(0, 2, 3, 4), normal(1, 7, 4)
    expected, expected_vjp = jax.vjp(lambda h, r: h @ r.T, hidden, rows)
    out, vjp = jax.vjp(unembed, hidden, rows)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    for gradient, right in zip(vjp(out), expected_vjp(out), strict=True):
        np.testing.assert_allclose(gradient, right, rtol=1e-5, atol=1e-5)


def test_bfloat16_products_have_bfloat16_gradients_and_float32_logits():
    hidden, rows = (normal(seed, 3, 4).astype(jnp.bfloat16) for seed in (0, 1))
    logits, vjp = jax.vjp(unembed, hidden, rows)
    assert logits.dtype == jnp.float32
    assert {gradient.dtype for gradient in vjp(logits)} == {jnp.dtype("bfloat16")}
    out, vjp = jax.vjp(project, hidden, rows.T)
    assert {out.dtype, *(g.dtype for g in vjp(out))} == {jnp.dtype("bfloat16")}
