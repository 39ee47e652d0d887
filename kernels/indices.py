"""Ids and node numbers from outside, taken to int32 without changing which of them are there."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

_INT32_MAX = np.iinfo(np.int32).max


def int32_indices(name: str, values: Any) -> Int32[Array, " ..."] | Int32[np.ndarray, " ..."]:
    """Returns integers as int32, -1 where they lie outside `[0, 2^31)`.

    A plain cast, which `jnp.asarray` does to NumPy's int64 as well, would wrap `2**32 + 3` to 3:
    another item.

    Args:
        name: what an error calls the argument.
        values: a JAX array, which stays one, or anything that NumPy makes an array of.

    Raises:
        ValueError: what is given is not integers.
    """
    # NumPy's arrays stay NumPy's, so that int64 ids are checked before JAX makes int32 of them.
    xp = jnp if isinstance(values, jax.Array) else np
    values = values if isinstance(values, jax.Array) else np.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(f"{name}: shape {values.shape} of {values.dtype}; it must be integers")
    if values.dtype.itemsize > 4:
        values = values.astype(xp.int64)  # What wraps here turns negative, so stays outside.
        values = xp.where((values >= 0) & (values <= _INT32_MAX), values, -1)
    return values.astype(xp.int32)
