"""Wall-clock times of jitted calls, taken in turns so that a busy machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


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
