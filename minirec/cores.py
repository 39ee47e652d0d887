"""How many threads are worth starting for work that leaves the interpreter alone."""

from __future__ import annotations

import os

_MOST = 8  # Beyond it such work waits for memory.


def num_threads() -> int:
    """Returns as many threads as this process may use cores, 8 at most."""
    if hasattr(os, "sched_getaffinity"):
        return min(_MOST, len(os.sched_getaffinity(0)))
    return min(_MOST, os.cpu_count() or 1)
