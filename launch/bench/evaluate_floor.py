"""The matrix products that a constrained search cannot leave out, and how fast this machine is.

What counts and what does not is said in `launch.bench.evaluate`. `launch.bench.training_floor`
counts those of a training step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from minirec.models import TrunkConfig

Products = dict[tuple[int, int], float]
"""Operations by the weight's shape, depth and width; those of attention under `ATTENTION`."""

ATTENTION = (0, 0)
_ROWS = (512, 1600, 6400)  # of the products whose rate is measured; the best counts
_product = jax.jit(jnp.matmul)


def matrix_products(
    trunk: TrunkConfig, vocab_size: int, lengths: Int[np.ndarray, " n"], beams: Sequence[int]
) -> Products:
    """Returns the operations of a search, a multiplication and an addition being two.

    Args:
        trunk: of the model.
        vocab_size: rows of the head.
        lengths: valid tokens of each user's prompt, `<bos>` among them.
        beams: beams that enter each level, 1 first.
    """
    users, layers, heads = len(lengths), trunk.num_layers, trunk.num_heads * trunk.head_dim
    lengths = lengths.astype(np.float64)
    prompt = lengths.sum() - users
    read = users * sum(beams[1:])  # tokens of beams that the trunk reads
    # Blocks that are worked through to their end, by tokens and layers; the others only give keys.
    whole = prompt * (layers - 1) + users + read * layers
    queries = whole - prompt * (layers > 1) - read - users * (layers == 1)
    keys = (prompt + read) * (layers - 1)
    pairs = (layers - 1) * (lengths * (lengths + 1) / 2).sum() + lengths.sum()
    for level, count in enumerate(beams[1:], start=1):
        pairs += layers * count * (lengths + level).sum()
    shapes = [
        ((trunk.width, heads), queries),
        ((trunk.width, trunk.num_kv_heads * trunk.head_dim), 2 * keys),
        ((heads, trunk.width), whole),
        ((trunk.width, trunk.mlp_width), 2 * whole),
        ((trunk.mlp_width, trunk.width), whole),
        ((trunk.width, vocab_size), users * sum(beams)),
    ]
    return {ATTENTION: 2 * 2.0 * heads * pairs} | operations(shapes)


def operations(shapes: Iterable[tuple[tuple[int, int], float]]) -> Products:
    """Returns the operations of products, given by the weight's shape and the rows before it."""
    products: Products = {}
    for shape, rows in shapes:
        products[shape] = products.get(shape, 0.0) + 2.0 * shape[0] * shape[1] * rows
    return products


def measure_rates(products: Products, best: Products, dtype: str, repeats: int = 20) -> None:
    """Raises the rates in `best`, operations a second by the weight's shape, to what is seen now.

    Args:
        products: shapes to measure.
        best: the best rates so far.
        dtype: of the model; NumPy's BLAS takes part where it is float32.
        repeats: products of each kind.
    """
    for depth, width in products:
        if (depth, width) == ATTENTION:
            continue
        for rows in _ROWS:
            x, weight = jnp.ones((rows, depth), dtype), jnp.ones((depth, width), dtype)
            calls: list[Callable[[], object]] = [_xla(x, weight)]
            if dtype == "float32":
                calls.append(_numpy(np.array(x), np.array(weight)))
            seconds = min(_best_seconds(call, repeats) for call in calls)
            rate = 2.0 * rows * depth * width / seconds
            best[depth, width] = max(best.get((depth, width), 0.0), rate)


def floor_seconds(products: Products, rates: Mapping[tuple[int, int], float]) -> float:
    """Returns the time of the products at these rates, attention at the best of all."""
    fastest = max(rates.values())
    return sum(count / rates.get(shape, fastest) for shape, count in products.items())


def _xla(x: jax.Array, weight: jax.Array) -> Callable[[], object]:
    return lambda: _product(x, weight).block_until_ready()


def _numpy(x: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    out = np.empty((len(x), weight.shape[1]), x.dtype)
    return lambda: np.matmul(x, weight, out=out)


def _best_seconds(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)
