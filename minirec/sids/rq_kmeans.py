"""RQ-KMeans: semantic IDs by residual quantisation, one k-means a level, in JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Int64

from minirec.sids.balance import balanced_codes
from minirec.sids.codebooks import (
    Codebooks,
    block_rows,
    check_sizes,
    check_vectors,
    encode_level,
    in_blocks,
)
from minirec.sids.kmeans import lloyd, plus_plus

# A point this near to its centroid, relative to the vectors' variance, is that centroid.
_REPRESENTED = 1e-12
# Centroids settle on so many rows a code first; that many tell where they belong to within what
# the last iterations, on all rows, put right.
_SETTLE_ROWS = 256


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RQKMeansResult(Codebooks):
    """SIDs and the codebooks that they came from.

    Attributes:
        codes: `[N, L]` SIDs by item id.
        variance: mean squared distance of the vectors from their mean.
        reconstruction_error: mean squared distance of the vectors from their approximation,
            after level 0, after level 1, …
        iterations: Lloyd iterations of each level.
    """

    codes: Int32[np.ndarray, "N L"]
    variance: float
    reconstruction_error: tuple[float, ...]
    iterations: tuple[int, ...]


def rq_kmeans(
    vectors: Float[np.ndarray, "N D"],
    num_levels: int,
    codebook_size: int | Sequence[int],
    seed: int = 0,
    *,
    num_iterations: int = 50,
    tolerance: float = 1e-4,
    polish_iterations: int = 5,
    balance: float = 0.0,
) -> RQKMeansResult:
    """Returns SIDs of item vectors: level by level, k-means of what the levels before left over.

    Residual quantisation is that of Chen, Guan and Wang (2010), as recommenders use it since
    OneRec (Deng et al., 2025); k-means++ start, dead centroids revived at the worst points. Equal
    vectors always get equal SIDs. With fewer distinct residuals than codes, codes stay unused.
    The same arguments on the same machine give the same bits.

    Where there are more than 512 distinct vectors a code, a level's centroids settle on a sample of
    256 a code, and the last iterations take all vectors (`polish_iterations`).

    Args:
        vectors: a vector an item, any scale; taken as float32.
        num_levels: L, 1 to 16.
        codebook_size: K of every level, or one K a level.
        seed: of the k-means++ starts.
        num_iterations: Lloyd iterations a level at most.
        tolerance: a level ends when its error shrinks by less than this fraction of itself.
        polish_iterations: Lloyd iterations a level at most that take all vectors, once the
            centroids have settled on a sample.
        balance: no code of a level gets more than this many times its share of the items, N / K;
            0: no limit. Items that find their nearest code full get the next, those first that
            lose least by it, so equal vectors may get different SIDs. At least 1.

    Raises:
        ValueError: a vector that is not finite (the message names its row), sizes out of range.
    """
    vectors = check_vectors(vectors)
    sizes = check_sizes(num_levels, codebook_size)
    if num_iterations < 1:
        raise ValueError(f"num_iterations: {num_iterations}; must be at least 1")
    if not tolerance >= 0:
        raise ValueError(f"tolerance: {tolerance}; must be 0 or more")
    if polish_iterations < 1:
        raise ValueError(f"polish_iterations: {polish_iterations}; must be at least 1")
    if balance and not 1 <= balance < np.inf:
        raise ValueError(f"balance: {balance}; must be at least 1, or 0 for no limit")
    random = np.random.default_rng(seed)
    if balance:  # Equal vectors may part, so each item is a row of its own.
        num_items = len(vectors)
        distinct, row_of_item = vectors, np.arange(num_items)
        weight_of_row = np.ones(num_items, np.int64)
    else:
        distinct, row_of_item, weight_of_row = _distinct_rows(vectors)
    num_rows = len(distinct)
    rows_a_block = block_rows(sizes)
    residual = in_blocks(distinct, rows_a_block)
    weights = in_blocks(weight_of_row.astype(np.float32)[:, None], rows_a_block)[..., 0]
    _, variance = _center(residual, weights)

    codes, codebooks, counts, errors, iterations = [], [], [], [], []
    for size in sizes:
        centered, _ = _center(residual, weights)
        sample = _sample(num_rows, size, random)
        start = plus_plus(
            centered.reshape(-1, centered.shape[-1])[sample],
            weights.reshape(-1)[sample],
            jnp.asarray(random.random((size, _tries(size))), jnp.float32),
            _REPRESENTED * variance,
        )
        settled, left = 0, num_iterations
        if num_rows > 2 * _SETTLE_ROWS * size:
            rows = np.sort(random.choice(num_rows, _SETTLE_ROWS * size, replace=False))
            start, used = lloyd(
                _taken(centered, rows, rows_a_block),
                _taken(weights[..., None], rows, rows_a_block)[..., 0],
                start,
                _REPRESENTED * variance,
                jnp.int32(num_iterations),
                jnp.float32(tolerance),
            )
            settled, left = int(used), polish_iterations
        centroids, used_iterations = lloyd(
            centered,
            weights,
            start,
            _REPRESENTED * variance,
            jnp.int32(left),
            jnp.float32(tolerance),
        )
        codebook = centroids.vectors + _mean(residual, weights)
        if balance:
            flat = np.asarray(residual).reshape(-1, residual.shape[-1])[:num_rows]
            code, codebook = balanced_codes(
                flat, np.asarray(codebook), np.asarray(centroids.alive), balance
            )
            residual = in_blocks(flat - codebook[code], rows_a_block)
        else:
            code, residual = encode_level(residual, codebook, centroids.alive)
            code = np.asarray(code).reshape(-1)[:num_rows]
        count = np.bincount(code, weights=weight_of_row, minlength=size).astype(np.int64)
        codes.append(code[row_of_item])
        codebooks.append(np.where((count > 0)[:, None], np.asarray(codebook), np.float32(0)))
        counts.append(count)
        errors.append(float(_mean_square(residual, weights)))
        iterations.append(settled + int(used_iterations))
    return RQKMeansResult(
        codes=np.stack(codes, axis=1),
        codebooks=tuple(codebooks),
        counts=tuple(counts),
        variance=float(variance),
        reconstruction_error=tuple(errors),
        iterations=tuple(iterations),
    )


@jax.jit
def _mean(
    blocks: Float32[Array, "blocks R D"], weights: Float32[Array, "blocks R"]
) -> Float32[Array, " D"]:
    return (blocks * weights[..., None]).sum(axis=(0, 1)) / weights.sum()


@jax.jit
def _mean_square(
    blocks: Float32[Array, "blocks R D"], weights: Float32[Array, "blocks R"]
) -> Float32[Array, ""]:
    return (jnp.square(blocks).sum(axis=-1) * weights).sum() / weights.sum()


@jax.jit
def _center(
    blocks: Float32[Array, "blocks R D"], weights: Float32[Array, "blocks R"]
) -> tuple[Float32[Array, "blocks R D"], Float32[Array, ""]]:
    """Returns the points less their mean, and their variance.

    Distances come from expanded squares, which lose what matters when all points lie far off.
    """
    centered = blocks - _mean(blocks, weights)
    return centered, _mean_square(centered, weights)


def _distinct_rows(
    vectors: Float32[np.ndarray, "N D"],
) -> tuple[Float32[np.ndarray, "n D"], Int64[np.ndarray, " N"], Int64[np.ndarray, " n"]]:
    """Returns the distinct rows in order of first occurrence, each item's row, rows' item counts.

    Rows are compared by a 64-bit hash, which is checked: sorting whole rows takes 20 times as long.
    """
    bits = (vectors + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    multiplier = np.random.default_rng(0).integers(0, 2**64, vectors.shape[1], dtype=np.uint64) | 1
    key = np.zeros(len(vectors), dtype=np.uint64)
    for column in range(vectors.shape[1]):
        key = (key ^ bits[:, column]) * multiplier[column]
        key ^= key >> np.uint64(29)
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    if not np.array_equal(bits[first][inverse], bits):
        _, first, inverse = np.unique(bits, axis=0, return_index=True, return_inverse=True)
        inverse = inverse.reshape(-1)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    row_of_item = place[inverse]
    return vectors[first[order]], row_of_item, np.bincount(row_of_item)


def _taken(
    blocks: Float32[Array, "blocks R D"], rows: np.ndarray, block_rows: int
) -> Float32[Array, "some R D"]:
    """Returns some rows as blocks of their own, whole ones as far as they go."""
    flat = blocks.reshape(-1, blocks.shape[-1])
    padded = -(-len(rows) // block_rows) * block_rows
    taken = jnp.zeros((padded, flat.shape[1]), flat.dtype).at[: len(rows)].set(flat[rows])
    return taken.reshape(-1, block_rows, flat.shape[1])


def _tries(codebook_size: int) -> int:
    """Draws a k-means++ start chooses from; one where drawing would outweigh the iterations."""
    return 2 + int(np.log(codebook_size)) if codebook_size <= 4096 else 1


def _sample(num_rows: int, codebook_size: int, random: np.random.Generator) -> np.ndarray:
    """Returns the rows among which k-means++ draws: all, or some 64 a code where they are many."""
    wanted = max(4 * codebook_size, min(64 * codebook_size, (1 << 26) // codebook_size))
    if num_rows <= wanted:
        return np.arange(num_rows)
    return np.sort(random.choice(num_rows, wanted, replace=False))
