"""Times of jitted functions, taken in turns so that a busy machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Steps in one program where launching one takes the host longer than the device takes to run it.
_STEPS_A_LAUNCH = 16


def named[Shape](shapes: Mapping[str, Shape], names: Sequence[str] | None) -> list[Shape]:
    """Returns the shapes of these names; all by default.

    Raises:
        ValueError: an unknown shape.
    """
    names = list(shapes) if names is None else names
    unknown = [name for name in names if name not in shapes]
    if unknown:
        raise ValueError(f"shapes: {unknown} are not known; there are {', '.join(shapes)}")
    return [shapes[name] for name in names]


class Call(NamedTuple):
    """A function to time, with its arguments.

    Attributes:
        function: from `own` and `shared` to arrays; it is jitted here, static arguments bound.
        own: arguments that each run has its own copy of, so that no two runs compute the same.
        shared: arguments that do not change from run to run, such as a catalogue.
    """

    function: Callable[..., Any]
    own: tuple[Any, ...]
    shared: tuple[Any, ...] = ()


def median_seconds(
    calls: Mapping[str, Callable[[], Any]], repeats: int, seconds: float = 0.5
) -> dict[str, float]:
    """Returns each call's median wall-clock seconds, its results on the device included.

    The calls take turns. Each is run once before, to compile.

    Args:
        calls: functions by name.
        repeats: most rounds.
        seconds: no further round starts once this much time a call has passed; at least three do,
            or `repeats` if that is fewer.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    for turn in range(repeats):
        if turn >= 3 and time.perf_counter() > end:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def median_step_seconds(
    calls: Mapping[str, Call], repeats: int, seconds: float = 0.5, steps: int | None = None
) -> dict[str, float]:
    """Returns the median seconds of each function, on the device alone where that differs.

    On a GPU or TPU a step may be over before the host has launched the next. There one program
    runs the function many times, on copies of its arguments, and the time is divided by their
    number.

    Args:
        calls: functions with their arguments, by name.
        repeats: most rounds.
        seconds: as in `median_seconds`.
        steps: runs in one program; one on CPU by default, 16 elsewhere.
    """
    if steps is None:
        steps = 1 if jax.default_backend() == "cpu" else _STEPS_A_LAUNCH

    def bound(call: Call) -> Callable[[], Any]:
        copies = [call.own, *(jax.tree.map(jnp.copy, call.own) for _ in range(steps - 1))]

        @jax.jit
        def run(copies: Sequence[Any], shared: tuple[Any, ...]) -> list[Any]:
            return [call.function(*own, *shared) for own in copies]

        return lambda: run(copies, call.shared)

    times = median_seconds({name: bound(call) for name, call in calls.items()}, repeats, seconds)
    return {name: total / steps for name, total in times.items()}
