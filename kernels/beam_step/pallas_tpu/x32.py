"""Keeps a TPU kernel in 32 bits, whatever `jax_enable_x64` says: the chip has nothing wider."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax


def in_32_bits[**Arguments, Result](
    function: Callable[Arguments, Result],
) -> Callable[Arguments, Result]:
    """Returns the function, traced with Python's numbers as int32 and float32.

    Its arrays are 32 bits wide or less. A kernel is full of numbers such as `1.0` and of loops and
    places in blocks that count in Python's integers, which would all become 64 bits wide.
    """

    @functools.wraps(function)
    def narrow(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return narrow
