"""How long a large catalogue takes to become a trie, how big it is, and what a filter costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    """Yields two rows for a random catalogue.

    `trie_build`: median seconds from unsorted SIDs on the host to arrays on the device, SIDs a
    second, and bytes a SID on the device, padding included. `trie_live_excluding`: median
    microseconds to find what `num_excluded` excluded items a user leave live, for a batch.

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

    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        trie = jax.block_until_ready(build_trie(sids))
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    num_bytes = sum(array.nbytes for array in jax.tree.leaves(trie))
    yield {
        "benchmark": "trie_build",
        "seconds": round(seconds, 4),
        "sids_per_second": round(num_sids / seconds),
        "bytes_per_sid": round(num_bytes / num_sids, 1),
        **size,
    }

    excluded = jnp.asarray(random.integers(0, num_sids, (batch, num_excluded)), jnp.int32)
    exclude = {"live_excluding": lambda: trie.live_excluding(excluded)}
    yield {
        "benchmark": "trie_live_excluding",
        "microseconds": round(1e6 * median_seconds(exclude, 50)["live_excluding"], 1),
        "batch": batch,
        "excluded": num_excluded,
        **size,
    }
