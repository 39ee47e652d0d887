"""The exact index beside Faiss's: the nearest of a million items for a batch of users."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minirec.cores import num_threads
from minirec.recommend.index import nearest_items

_WIDTH, _K, _USERS, _REPEATS = 64, 100, 32, 7


def run(num_items: int = 1_000_000) -> Iterator[dict[str, Any]]:
    """Yields a row of ours, and one of Faiss's `IndexFlatIP` on the same vectors and users.

    `ratio` is Faiss's time over ours; `same_lists` the share of users who get the same hundred
    items from both; `of_floor` the time of the product alone over ours.

    Args:
        num_items: N.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_items, _WIDTH), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    users = rng.standard_normal((_USERS, _WIDTH), np.float32)
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    held, asked = jnp.asarray(vectors), jnp.asarray(users)
    ours, mine = _timed(lambda: jax.block_until_ready(nearest_items(asked, held, k=_K)))
    highest = jax.lax.Precision.HIGHEST
    product = jax.jit(lambda a, b: jnp.max(jnp.matmul(a, b.T, precision=highest), axis=1))
    floor, _ = _timed(lambda: jax.block_until_ready(product(asked, held)))
    about = {"benchmark": "index", "num_items": num_items, "width": _WIDTH, "k": _K}
    theirs, lists = None, None
    if importlib.util.find_spec("faiss") is None:
        yield about | {"implementation": "faiss", "skipped": "faiss is not installed"}
    else:
        faiss: Any = importlib.import_module("faiss")
        faiss.omp_set_num_threads(num_threads())
        index = faiss.IndexFlatIP(_WIDTH)
        index.add(vectors)
        theirs, (_, lists) = _timed(lambda: index.search(users, _K))
        yield about | {"implementation": "faiss_flat_ip", "ms": round(1e3 * theirs, 1)}
    row = about | {
        "implementation": "minirec",
        "users": _USERS,
        "ms": round(1e3 * ours, 1),
        "product_ms": round(1e3 * floor, 1),
        "of_floor": round(floor / ours, 3),
    }
    if theirs is not None and lists is not None:
        found = np.sort(np.asarray(mine[0]), axis=1) == np.sort(lists, axis=1)
        row |= {
            "ratio": round(theirs / ours, 2),
            "same_lists": round(float(found.all(axis=1).mean()), 3),
        }
    yield row


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Returns the median of a few times in seconds, after one that does not count."""
    result = work()
    spent = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        result = work()
        spent.append(time.perf_counter() - begin)
    return float(np.median(spent)), result
