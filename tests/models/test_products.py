"""Products with written-out gradients against automatic differentiation."""

import jax
import jax.numpy as jnp
import pytest

from minirec.models.products import project, unembed
from tests.bounds import assert_close


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_same_products(found, expected):
    # None of the sums here has more than 12 terms; their sizes add up to 4 times the largest sum.
    assert_close(found, expected, 12, scale=4 * jnp.abs(expected).max())


@pytest.mark.parametrize(
    ("x", "weight", "num_inner"),
    [((2, 3, 4), (4, 5), 1), ((2, 3, 4), (4, 5, 2), 1), ((2, 3, 5, 2), (5, 2, 4), 2)],
)
def test_project_is_a_tensor_product_with_its_gradients(x, weight, num_inner):
    x, weight = normal(0, *x), normal(1, *weight)
    expected, expected_vjp = jax.vjp(lambda x, w: jnp.tensordot(x, w, num_inner), x, weight)
    out, vjp = jax.vjp(lambda x, w: project(x, w, num_inner), x, weight)
    assert_same_products(out, expected)
    for gradient, right in zip(vjp(expected), expected_vjp(expected), strict=True):
        assert_same_products(gradient, right)


def test_unembed_multiplies_with_every_row_and_has_its_gradients():
    hidden, rows = normal(0, 2, 3, 4), normal(1, 7, 4)
    expected, expected_vjp = jax.vjp(lambda h, r: h @ r.T, hidden, rows)
    out, vjp = jax.vjp(unembed, hidden, rows)
    assert_same_products(out, expected)
    for gradient, right in zip(vjp(expected), expected_vjp(expected), strict=True):
        assert_same_products(gradient, right)


def test_bfloat16_products_have_bfloat16_gradients_and_float32_logits():
    hidden, rows = (normal(seed, 3, 4).astype(jnp.bfloat16) for seed in (0, 1))
    logits, vjp = jax.vjp(unembed, hidden, rows)
    assert logits.dtype == jnp.float32
    assert {gradient.dtype for gradient in vjp(logits)} == {jnp.dtype("bfloat16")}
    out, vjp = jax.vjp(project, hidden, rows.T)
    assert {out.dtype, *(g.dtype for g in vjp(out))} == {jnp.dtype("bfloat16")}
