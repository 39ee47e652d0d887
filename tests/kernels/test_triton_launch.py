"""Triton kernels on JAX arrays, in Triton's interpreter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

triton = pytest.importorskip("triton", reason="needs Triton: pip install triton")

import triton.language as tl  # noqa: E402

from kernels.triton_launch import is_interpreted, launch  # noqa: E402


@triton.jit
def scaled_sum(x_ptr, y_ptr, out_ptr, total_ptr, SIZE: tl.constexpr, TILE: tl.constexpr):
    place = tl.program_id(0) * TILE + tl.arange(0, TILE)
    mask = place < SIZE
    x = tl.load(x_ptr + place, mask=mask, other=0).to(tl.float32)
    if y_ptr is not None:
        x += tl.load(y_ptr + place, mask=mask, other=0)
    tl.store(out_ptr + place, 2.0 * x, mask=mask)
    tl.store(total_ptr + tl.program_id(0), tl.sum(x, axis=0))


pytestmark = pytest.mark.skipif(
    not is_interpreted(scaled_sum) and jax.default_backend() != "gpu",
    reason="needs a GPU, or TRITON_INTERPRET=1 in the environment",
)

INF = np.float32(np.inf)


def run(x, y, size=None):
    floats = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    totals = jax.ShapeDtypeStruct((3,), jnp.float32)
    size = x.size if size is None else size
    return launch(
        scaled_sum, x, y, out=[floats, totals], grid=(3, 1), num_warps=1, SIZE=size, TILE=4
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_a_kernel_sees_its_arrays(wrap, dtype):
    x = jnp.arange(10, dtype=dtype)
    out, total = wrap(run)(x, jnp.ones(10, jnp.float32))
    assert out.tolist() == [2.0 * (i + 1) for i in range(10)]
    assert total.tolist() == [10.0, 26.0, 19.0]


def test_none_stays_none():
    out, _ = run(jnp.arange(10, dtype=jnp.float32), None)
    assert out.tolist() == [2.0 * i for i in range(10)]


def test_infinities_and_nan_pass():
    x = jnp.array([INF, -INF, np.nan, 1, 0, 0, 0, 0, 0, 0], jnp.float32)
    out, total = run(x, None)
    assert np.array_equal(out, 2 * x, equal_nan=True)
    assert np.isnan(total[0])


@pytest.mark.skipif(not is_interpreted(scaled_sum), reason="is the interpreter's")
def test_what_a_kernel_does_not_write_is_not_zero():
    out, _ = run(jnp.zeros(10, jnp.float32), None, size=9)
    assert out[:9].tolist() == [0.0] * 9
    assert out[9] != 0.0


def test_two_steps_of_one_program_follow_each_other():
    @jax.jit
    def twice(x):
        return run(run(x, None)[0], x)[0]

    assert twice(jnp.arange(10, dtype=jnp.float32)).tolist() == [6.0 * i for i in range(10)]
