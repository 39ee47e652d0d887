"""One level of a quantiser: weighted k-means, in blocks, as a few compiled programs.

Points come in blocks `[blocks, rows, D]`, so that the distances held at one time are `rows × K`,
whatever N is. A row of weight 0 is padding. Sums run over one-hot matrix products, not scatters:
they are as fast on CPU, and on GPU a scatter would add in an order that differs from run to run.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

# Distances decide which code an item gets: TPUs and GPUs would otherwise round the inputs first.
_PRECISION = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Centroids:
    """K centroids, some of which may be dead.

    Attributes:
        vectors: `[K, D]`; zeros where dead.
        alive: `[K]`; a dead centroid is nobody's nearest.
    """

    vectors: Float32[Array, "K D"]
    alive: Bool[Array, " K"]


@jax.jit
def plus_plus(
    points: Float32[Array, "n D"],
    weights: Float32[Array, " n"],
    uniforms: Float32[Array, "K tries"],
    floor: Float32[Array, ""],
) -> Centroids:
    """Returns k-means++ starts (Arthur and Vassilvitskii, 2007), the best of several draws each.

    Args:
        points: where centroids may start.
        weights: how many items each point stands for.
        uniforms: numbers in [0, 1), all the randomness there is: of a row's draws, the one that
            lowers the error most is taken.
        floor: a squared distance up to which a point counts as represented. Once all points are,
            the remaining centroids are dead.
    """
    num_codes = uniforms.shape[0]

    def draw(mass: Float32[Array, " n"], uniform_t: Float32[Array, " tries"]) -> Array:
        cumulative = jnp.cumsum(mass)
        # Of a number below 1, the product may still round to the whole mass, past the last point.
        below = jnp.nextafter(cumulative[-1], jnp.float32(0))
        rows = jnp.searchsorted(cumulative, jnp.minimum(uniform_t * cumulative[-1], below), "right")
        return points[jnp.minimum(rows, points.shape[0] - 1)]

    def add(code: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        vectors, alive, distance = state
        mass = weights * jnp.where(distance > floor, distance, 0)
        is_needed = mass.sum() > 0
        drawn = draw(mass, uniforms[code])
        nearer_tn = jax.lax.map(
            lambda vector: jnp.minimum(distance, jnp.square(points - vector).sum(axis=1)), drawn
        )
        best = jnp.matmul(nearer_tn, weights, precision=_PRECISION).argmin()
        return (
            vectors.at[code].set(jnp.where(is_needed, drawn[best], 0)),
            alive.at[code].set(is_needed),
            jnp.where(is_needed, nearer_tn[best], distance),
        )

    first = draw(weights, uniforms[0, :1])[0]
    vectors = jnp.zeros((num_codes, points.shape[1]), points.dtype).at[0].set(first)
    alive = jnp.zeros(num_codes, bool).at[0].set(True)
    distance = jnp.square(points - first).sum(axis=1)
    vectors, alive, _ = jax.lax.fori_loop(1, num_codes, add, (vectors, alive, distance))
    return Centroids(vectors, alive)


def _nearest(
    rows: Float32[Array, "R D"], centroids: Centroids
) -> tuple[Int32[Array, " R"], Float32[Array, " R"]]:
    """Returns each row's nearest centroid (ties to the lower) and its squared distance."""
    # |x - c|^2 / 2 = |x|^2 / 2 + (|c|^2 / 2 - x · c): the first term chooses nothing, and is added
    # to the least one alone. A dead centroid is infinitely far.
    half = jnp.where(centroids.alive, jnp.square(centroids.vectors).sum(axis=1) / 2, jnp.inf)
    products = jnp.matmul(centroids.vectors, rows.T, precision=_PRECISION)
    score_kr = half[:, None] - products
    least = score_kr.min(axis=0)
    # Two plain reductions vectorise on CPU; argmin, which reduces pairs, takes four times as long.
    ordinal = jnp.arange(score_kr.shape[0], dtype=jnp.int32)[:, None]
    code = jnp.where(score_kr == least, ordinal, score_kr.shape[0] - 1).min(axis=0)
    return code, jnp.maximum(2 * least + jnp.square(rows).sum(axis=1), 0)


@jax.jit
def assign(blocks: Float32[Array, "blocks R D"], centroids: Centroids) -> Int32[Array, "blocks R"]:
    """Returns the nearest living centroid of every row; ties to the lower code."""
    return jax.lax.map(lambda rows: _nearest(rows, centroids)[0], blocks)


@jax.jit
def lloyd(
    blocks: Float32[Array, "blocks R D"],
    weights: Float32[Array, "blocks R"],
    start: Centroids,
    floor: Float32[Array, ""],
    num_iterations: Int32[Array, ""],
    tolerance: Float32[Array, ""],
) -> tuple[Centroids, Int32[Array, ""]]:
    """Returns centroids after Lloyd's iterations, and how many it took.

    A centroid without items moves to the point that adds most to the error, the second such
    centroid to the second worst, and so on; where every point is represented it is dead. The
    iterations end when the error shrinks by less than `tolerance` of itself and no centroid was
    revived.

    Args:
        blocks: the points.
        weights: how many items each point stands for; 0 for padding.
        start: where to begin.
        floor: a squared distance up to which a point counts as represented.
        num_iterations: at most so many.
        tolerance: relative decrease of the error that is still worth another iteration.
    """
    num_codes, dim = start.vectors.shape
    points, weight = blocks.reshape(-1, dim), weights.reshape(-1)
    num_candidates = min(num_codes, points.shape[0])

    def visit(
        centroids: Centroids,
    ) -> tuple[Float32[Array, "K D"], Float32[Array, " K"], Float32[Array, ""], Int32[Array, " N"]]:
        """Returns sums and weights of every code's points, the error, and the points' codes."""

        def visit_block(
            totals: tuple[Array, Array, Array], block: tuple[Array, Array]
        ) -> tuple[tuple[Array, Array, Array], Array]:
            rows, weight_r = block
            code, distance = _nearest(rows, centroids)
            ordinal = jnp.arange(num_codes, dtype=jnp.int32)[:, None]
            share_kr = jnp.where(ordinal == code, weight_r, 0)
            sums, counts, error = totals
            sums = sums + jnp.matmul(share_kr, rows, precision=_PRECISION)
            return (
                sums,
                counts + share_kr.sum(axis=1),
                error + (weight_r * distance).sum(),
            ), code

        counts = jnp.zeros(num_codes, jnp.float32)
        zeros = (jnp.zeros((num_codes, dim), jnp.float32), counts, jnp.float32(0))
        (sums, counts, error), codes = jax.lax.scan(visit_block, zeros, (blocks, weights))
        return sums, counts, error, codes.reshape(-1)

    def revive(
        centroids: Centroids, vectors: Float32[Array, "K D"], counts: Array, codes: Array
    ) -> tuple[Centroids, Bool[Array, ""]]:
        dead = counts == 0
        # Exact differences: the expanded square is all rounding where a point is its centroid.
        distance = jnp.square(points - centroids.vectors[codes]).sum(axis=1)
        loss, worst = jax.lax.top_k(
            weight * jnp.where(distance > floor, distance, 0), num_candidates
        )
        place = jnp.cumsum(dead) - 1
        is_revived = dead & (place < num_candidates)
        place = jnp.clip(place, 0, num_candidates - 1)
        is_revived &= loss[place] > 0
        vectors = jnp.where(is_revived[:, None], points[worst[place]], vectors)
        return Centroids(vectors, ~dead | is_revived), is_revived.any()

    def step(state: tuple[Centroids, Array, Array, Array]) -> tuple[Centroids, Array, Array, Array]:
        centroids, last_error, iteration, _ = state
        sums, counts, error, codes = visit(centroids)
        vectors = sums / jnp.maximum(counts, 1)[:, None]
        moved, was_revived = jax.lax.cond(
            (counts == 0).any(),
            lambda: revive(centroids, vectors, counts, codes),
            lambda: (Centroids(vectors, counts > 0), jnp.bool(False)),
        )
        is_done = (last_error - error <= tolerance * error) & ~was_revived
        return moved, error, iteration + 1, is_done

    centroids, _, iterations, _ = jax.lax.while_loop(
        lambda state: (state[2] < num_iterations) & ~state[3],
        step,
        (start, jnp.float32(jnp.inf), jnp.int32(0), jnp.bool(False)),
    )
    return centroids, iterations
