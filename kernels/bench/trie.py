"""How long a large catalogue takes to become a trie, how big it is, and what a filter costs."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels.bench import static
from kernels.bench.timing import median_seconds
from kernels.trie import build_trie


def run(
    num_sids: int = 1_000_000,
    vocab: int = 2048,
    levels: int = 8,
    batch: int = 16,
    num_excluded: int = 64,
    repeats: int = 3,
) -> Iterator[dict[str, Any]]:
    """Yields rows for a random catalogue.

    `trie_build`, for ours and, where the environment names a checkout, for STATIC's index
    (`implementation`): median seconds from unsorted SIDs on the host to arrays on the device, SIDs
    a second, bytes a SID on the device, padding included, and the most memory that the process took
    meanwhile beyond what it held before; None where the system does not tell.
    `trie_live_excluding`: median microseconds to find what `num_excluded` excluded items a user
    leave live, for a batch.

    Args:
        num_sids: rows of the catalogue.
        vocab: codes a level.
        levels: codes a SID.
        batch: users of the filter.
        num_excluded: items excluded a user.
        repeats: builds to take the median of.
    """
    random = np.random.default_rng(0)
    sids = random.integers(0, vocab, (num_sids, levels), np.int32)
    device = jax.devices()[0].device_kind
    size = {"num_sids": num_sids, "vocab": vocab, "levels": levels, "device": device}

    builders: dict[str, Callable[[], Any]] = {"trie": lambda: build_trie(sids)}
    if static.is_named():
        builders["static"] = lambda: static.build_index(sids, vocab)
    for name, build in builders.items():
        seconds, num_bytes, peak = _measured(build, repeats)
        yield {
            "benchmark": "trie_build",
            "implementation": name,
            "seconds": round(seconds, 4),
            "sids_per_second": round(num_sids / seconds),
            "bytes_per_sid": round(num_bytes / num_sids, 1),
            "peak_megabytes": None if peak is None else round(peak / 1e6, 1),
            **size,
        }

    trie = build_trie(sids)
    excluded = jnp.asarray(random.integers(0, num_sids, (batch, num_excluded)), jnp.int32)
    exclude = {"live_excluding": lambda: trie.live_excluding(excluded)}
    yield {
        "benchmark": "trie_live_excluding",
        "microseconds": round(1e6 * median_seconds(exclude, 50)["live_excluding"], 1),
        "batch": batch,
        "excluded": num_excluded,
        **size,
    }


def _measured(build: Callable[[], Any], repeats: int) -> tuple[float, int, int | None]:
    """Returns the median seconds of a build, the bytes of what it makes, and its peak memory."""
    times, peaks, num_bytes = [], [], 0
    for _ in range(repeats):
        gc.collect()
        before = _reset_peak()
        start = time.perf_counter()
        made = jax.block_until_ready(build())
        times.append(time.perf_counter() - start)
        if before is not None:
            peaks.append(_memory("VmHWM") - before)
        num_bytes = sum(array.nbytes for array in jax.tree.leaves(made))
        del made
    return statistics.median(times), num_bytes, max(peaks) if peaks else None


def _reset_peak() -> int | None:
    """Forgets the process's peak memory; returns what it holds now, None if it cannot forget."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _memory("VmRSS")
    except OSError:
        return None


def _memory(name: str) -> int:
    """Returns one of Linux's figures of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status: there is no {name}")
