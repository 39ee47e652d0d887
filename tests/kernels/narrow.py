"""Test inputs as the kernels take them, where `jax_enable_x64` makes wider ones by default."""

import jax
import jax.numpy as jnp


def in_32_bits(tree):
    """Returns arrays with float64 as float32; kernels refuse float64, and say so."""

    def narrow(array):
        wide = getattr(array, "dtype", None) == jnp.float64
        return array.astype(jnp.float32) if wide else array

    return jax.tree.map(narrow, tree)
