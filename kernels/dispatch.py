"""How an operation's public function finds the implementation that runs, and checks arguments."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import importlib
import operator
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


class UnsupportedError(NotImplementedError):
    """A backend is not made for these arguments; the next one may be.

    A class of its own, so that a `NotImplementedError` of JAX's, which is a bug of the backend,
    surfaces instead of making a silent slow path.
    """


@dataclasses.dataclass(frozen=True)
class Implementation:
    """A backend: a module with the operation's functions, imported when first used.

    Attributes:
        module: import path of the module.
        platforms: JAX platforms on which it may be picked by default; by name it can be asked for
            anywhere.
    """

    module: str
    platforms: tuple[str, ...]


_record: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("_record", default=None)


@contextlib.contextmanager
def record_implementations() -> Generator[list[str]]:
    """Yields a list to which every operation called inside adds the implementation that ran.

    Under an outer `jax.jit` an operation is called when it is traced.
    """
    names: list[str] = []
    token = _record.set(names)
    try:
        yield names
    finally:
        _record.reset(token)


def candidates(
    implementations: Mapping[str, Implementation],
    implementation: str | None,
    platform: str | None = None,
) -> list[str]:
    """Returns the names to try, in order.

    Args:
        implementations: the operation's, best first.
        implementation: the one that was asked for; None: those that are picked by default.
        platform: `"cpu"`, `"gpu"` or `"tpu"`; that of JAX's default backend if None.

    Raises:
        ValueError: there is none.
    """
    if implementation is not None:
        if implementation not in implementations:
            raise ValueError(
                f"implementation: {implementation!r} is not known; there are "
                f"{', '.join(sorted(implementations))}"
            )
        return [implementation]
    platform = platform or jax.default_backend()
    names = [name for name, entry in implementations.items() if platform in entry.platforms]
    if not names:
        raise ValueError(
            f"platform: no implementation is made for {platform!r}; name one of "
            f"{', '.join(sorted(implementations))}"
        )
    return names


def run[Result](
    implementations: Mapping[str, Implementation],
    candidates: list[str],
    call: Callable[[Any], Result],
) -> Result:
    """Returns what the first candidate that is made for the arguments gives.

    Args:
        implementations: the operation's, by name.
        candidates: names to try, in order.
        call: calls the operation of an implementation's module.

    Raises:
        UnsupportedError: the last candidate is not made for them either.
    """
    for name in candidates:
        try:
            result = call(importlib.import_module(implementations[name].module))
        except UnsupportedError:
            if name == candidates[-1]:
                raise
            continue
        record = _record.get()
        if record is not None:
            record.append(name)
        return result
    raise AssertionError("unreachable: there is always a candidate")


def interpreted_on_cpu(step: Callable[..., Any], *arrays: Array | None) -> Any:
    """Runs a Pallas kernel interpreted on a CPU, compiled elsewhere, whatever the host is."""
    # Decided when it is lowered, not when it is traced: a step that is exported for a TPU on a
    # machine that has none is the compiled one.
    return jax.lax.platform_dependent(
        *arrays,
        cpu=functools.partial(step, interpret=True),
        default=functools.partial(step, interpret=False),
    )


def array(name: str, value: Any, axes: tuple[str, ...], dtypes: tuple[Any, ...]) -> Array:
    """Returns `value` as a JAX array, checked; NumPy's float64 is refused, not cut to float32."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or dtype not in [jnp.dtype(d) for d in dtypes]:
        allowed = " or ".join(str(jnp.dtype(d)) for d in dtypes)
        raise ValueError(f"{name}: an array of {dtype or type(value)}; it must be {allowed}")
    if len(value.shape) != len(axes) or not all(value.shape):
        raise ValueError(
            f"{name}: shape {tuple(value.shape)}; it must be [{', '.join(axes)}], none of them 0"
        )
    return jnp.asarray(value)


def integer(name: str, value: Any) -> int:
    """Returns `value` as a Python integer; raises ValueError for anything else, also a bool."""
    if isinstance(value, bool):
        raise ValueError(f"{name}: {value}; it must be a static integer")
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name}: {value!r}; it must be a static integer") from error
