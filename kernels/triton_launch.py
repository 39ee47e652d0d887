"""Runs a Triton kernel on JAX arrays: on a GPU through jax-triton, or in Triton's interpreter.

The interpreter runs a kernel's programs one after the other in NumPy, so that kernels can be
tested where there is no GPU. It is there for kernels that were defined while `TRITON_INTERPRET=1`
stood in the environment; set it before Python starts.

Triton and jax-triton are imported where they are used: neither is needed to import this.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Generator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

# What outputs hold before the interpreter runs, so that a kernel that leaves holes is noticed.
_POISON = 0x5A

# The interpreter's state is global, and JAX may call back from several threads.
_LOCK = threading.Lock()


def is_interpreted(kernel: Any) -> bool:
    """Returns whether a kernel was defined for Triton's interpreter."""
    import triton

    return not isinstance(kernel, triton.JITFunction)


def launch(
    kernel: Any,
    *arrays: Array | None,
    out: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, int],
    num_warps: int,
    compute_capability: int | None = None,
    **constants: Any,
) -> list[Array]:
    """Returns the outputs of a kernel whose parameters are inputs, outputs, constants.

    Works under `jax.jit`. An output that the kernel does not write holds anything.

    Args:
        kernel: made by `triton.jit`.
        arrays: the inputs, in the order of the kernel's parameters; None stays None.
        out: shapes and dtypes of the outputs, which follow the inputs.
        grid: how many programs run along both axes.
        num_warps: warps a program, on a GPU.
        compute_capability: of the GPU to compile for, 90 for Hopper; None asks the one at hand.
        constants: the kernel's `tl.constexpr` parameters.
    """
    if is_interpreted(kernel):
        return _interpret(kernel, arrays, out, grid, constants)
    import jax_triton

    operands: Any = arrays  # Its annotations leave out None, which it takes.
    return jax_triton.triton_call(
        *operands,
        kernel=kernel,
        out_type=list(out),
        grid=grid,
        num_warps=num_warps,
        compute_capability=compute_capability,
        # Every operation rounds by itself, as in the interpreter and in XLA.
        backend_options={"enable_fp_fusion": False},
        **constants,
    )


def _interpret(
    kernel: Any,
    arrays: Sequence[Array | None],
    out: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, int],
    constants: dict[str, Any],
) -> list[Array]:
    given = [array is not None for array in arrays]

    def run(*present: Any) -> list[np.ndarray]:
        values = iter(present)
        inputs = [HostArray(np.asarray(next(values))) if there else None for there in given]
        outputs = [np.empty(shape.shape, shape.dtype) for shape in out]
        for output in outputs:
            # Bytes, whatever the dtype: as int32 0x5A5A5A5A, as float32 1.5e16.
            output.view(np.uint8).fill(_POISON)
        # NaN and infinities are ordinary values to a kernel.
        with _LOCK, _patched_once(), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            kernel[grid](*inputs, *map(HostArray, outputs), **constants)
        return outputs

    # Nothing for what is None, which a callback cannot take; `run` puts it back.
    return jax.pure_callback(run, list(out), *(array for array in arrays if array is not None))


@contextlib.contextmanager
def _patched_once() -> Generator[None]:
    """Keeps the interpreter from preparing `triton.language` anew at every function call.

    It does so whenever one `triton.jit` function calls another, `tl.sum` included, which takes
    longer than what is called.
    """
    from triton import language
    from triton.runtime import interpreter as runtime

    interpreter: Any = runtime
    prepare = interpreter._patch_lang
    prepared: list[Any] = []

    def prepare_once(function: Any) -> Any:
        modules = [m for m in (language, language.core) if m in function.__globals__.values()]
        if all(module in prepared for module in modules):
            return interpreter._LangPatchScope()
        prepared.extend(modules)
        return prepare(function)

    interpreter._patch_lang = prepare_once
    try:
        yield
    finally:
        interpreter._patch_lang = prepare


class HostArray:
    """A NumPy array as Triton's interpreter takes arguments: what it uses of a torch tensor.

    The interpreter reads a pointer and the name of a dtype. Before it runs it makes a tensor on the
    host out of an argument's storage, and afterwards copies that back: here all of them are one.

    Attributes:
        array: the array.
        dtype: its dtype.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.dtype = array.dtype

    def data_ptr(self) -> int:
        """Returns the address of the first value."""
        return self.array.ctypes.data

    def untyped_storage(self) -> HostArray:
        """Returns what holds the values."""
        return self

    def cpu(self) -> HostArray:
        """Returns the same on the host."""
        return self

    def new_empty(self, size: int, device: str) -> HostArray:
        """Returns a tensor on the host, to which `set_` gives its storage."""
        del size, device
        return self

    def set_(self, storage: HostArray, *layout: Any) -> None:
        """Takes a storage."""

    def copy_(self, storage: HostArray) -> None:
        """Takes over a storage's values."""

    def storage_offset(self) -> int:
        """Returns where the values start in the storage."""
        return 0

    def size(self) -> tuple[int, ...]:
        """Returns the shape."""
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        """Returns the strides, which nobody looks at."""
        return self.array.strides
