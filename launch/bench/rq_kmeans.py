"""How fast RQ-KMeans makes SIDs of a large catalogue, and how well, beside faiss."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from minirec.sids.rq_kmeans import rq_kmeans

_BEAM = 5  # faiss's default


def clustered_vectors(num: int, dim: int, seed: int = 0) -> Float32[np.ndarray, "N D"]:
    """Returns vectors of a catalogue-like cloud: groups within groups of groups, and noise."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((num, dim), np.float32) * np.float32(0.4)
    for num_groups, scale in ((200, 1.0), (4000, 0.6), (40_000, 0.4)):
        centers = random.standard_normal((num_groups, dim), np.float32) * np.float32(scale)
        popularity = 1 / np.arange(1, num_groups + 1) ** 0.7
        group = random.choice(num_groups, num, p=popularity / popularity.sum())
        vectors += centers[group]
    return vectors


def run(
    num_items: int = 1_000_000, dim: int = 64, num_levels: int = 3, codebook_size: int = 256
) -> Iterator[dict[str, Any]]:
    """Yields a row an implementation: this project, and faiss's residual quantiser twice.

    faiss runs as it comes, with a beam of 5, and with a beam of 1, which is what RQ-KMeans does:
    each level takes the nearest code. `relative_error` is the mean squared distance of the vectors
    from their reconstruction over their variance, computed here for all alike.

    `of_floor`, for ours: one assignment of all vectors a level and one sum of them a code, which no
    k-means can do without, at the rate of a large matrix product in the same run, over the time.

    Args:
        num_items: N.
        dim: D.
        num_levels: L.
        codebook_size: K, a power of two.
    """
    vectors = clustered_vectors(num_items, dim)
    variance = float(np.square(vectors - vectors.mean(axis=0)).sum(axis=1, dtype=np.float64).mean())
    size = {"num_items": num_items, "dim": dim, "levels": num_levels, "codes": codebook_size}

    def row(name: str, seconds: float, approximation: np.ndarray) -> dict[str, Any]:
        error = np.square(vectors - approximation).sum(axis=1, dtype=np.float64).mean()
        return {
            "benchmark": "rq_kmeans",
            "implementation": name,
            **size,
            "seconds": round(seconds, 2),
            "relative_error": round(float(error) / variance, 5),
        }

    begin = time.perf_counter()
    result = rq_kmeans(vectors, num_levels, codebook_size)
    seconds = time.perf_counter() - begin
    ours = row("minirec", seconds, result.decode(result.codes))
    operations = 2 * 2.0 * num_items * codebook_size * dim * num_levels
    floor = operations / _operations_per_second()
    ours |= {"iterations": list(result.iterations), "floor_seconds": round(floor, 2)}
    ours["of_floor"] = round(floor / seconds, 3)
    if importlib.util.find_spec("faiss") is None:
        print("rq_kmeans: faiss is not installed (extra `bench`): no row of it", file=sys.stderr)
        yield ours
        return
    for beam in (_BEAM, 1):
        seconds, approximation = _faiss(vectors, num_levels, codebook_size, beam)
        theirs = row(f"faiss_beam_{beam}", seconds, approximation)
        ours[f"ratio_to_beam_{beam}"] = round(seconds / ours["seconds"], 2)
        yield theirs
    yield ours


def _faiss(
    vectors: np.ndarray, num_levels: int, codebook_size: int, beam: int
) -> tuple[float, np.ndarray]:
    """Returns seconds and reconstruction of faiss's residual quantiser, trained on all vectors."""
    import faiss  # type: ignore[import-not-found]

    faiss.omp_set_num_threads(os.cpu_count() or 1)
    begin = time.perf_counter()
    bits = codebook_size.bit_length() - 1
    quantiser = faiss.ResidualQuantizer(vectors.shape[1], num_levels, bits)
    quantiser.max_beam_size = beam
    quantiser.train(vectors)
    codes = quantiser.compute_codes(vectors)
    seconds = time.perf_counter() - begin
    return seconds, quantiser.decode(codes)


def _operations_per_second(size: int = 2048, repeats: int = 5) -> float:
    """Returns the rate of a large float32 matrix product on this machine."""
    matrix = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        product(matrix).block_until_ready()
        times.append(time.perf_counter() - begin)
    return 2.0 * size**3 / min(times)
