"""The nearest items of a vector: exact, by products in blocks and a running list of the best.

The best of a block are found by halves: its scores lie in chunks, and the `k` chunks with the
highest maxima hold the `k` best scores (each of `k` better chunks would hold a better score), so
that a sort sees few of them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from minirec import files
from minirec.files.schema import require_whole

_CHUNK = 128
_VECTORS = "vectors.npy"
_RECORD = "index.json"
_REMEDY = "build the index again"


@functools.partial(jax.jit, static_argnames=("k", "block"))
def nearest_items(
    users: Float[Array, "B E"],
    vectors: Float[Array, "N E"],
    allowed: Bool[Array, " N"] | None = None,
    excluded: Int[Array, "B X"] | None = None,
    *,
    k: int,
    block: int = 1 << 17,
) -> tuple[Int32[Array, "B k"], Float32[Array, "B k"]]:
    """Returns the items with the highest products, best first, and these; ties to the lower item.

    Where fewer than `k` are left, -1 and -inf stand for the rest.

    Args:
        users: vectors of users.
        vectors: of all items.
        allowed: items that may be returned at all; None: all.
        excluded: items that a user shall not get, -1 pads.
        k: how many.
        block: items whose products are held at one time.
    """
    B, N = len(users), len(vectors)
    size = min(block, -(-N // _CHUNK) * _CHUNK)
    num_blocks = -(-N // size)
    rows = jnp.pad(vectors, ((0, num_blocks * size - N), (0, 0)))
    there = jnp.arange(num_blocks * size, dtype=jnp.int32) < N
    if allowed is not None:
        there &= jnp.pad(allowed, (0, num_blocks * size - N))
    lines = jnp.arange(B, dtype=jnp.int32)[:, None]

    def step(best: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        first = number * size
        some = jax.lax.dynamic_slice_in_dim(rows, first, size)
        held = jax.lax.dynamic_slice_in_dim(there, first, size)
        score = jax.lax.dot_general(
            users,
            some,
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,  # An accelerator's default would move items.
            preferred_element_type=jnp.float32,
        )
        score = jnp.where(held, score, -jnp.inf)
        if excluded is not None:
            place = excluded - first
            place = jnp.where((place >= 0) & (place < size), place, size)
            score = score.at[lines, place].set(-jnp.inf, mode="drop")
        value, item = _best_of(score, min(k, size))
        # What came before is of lower items, and stands first among equals.
        values = jnp.concatenate([best[0], value], axis=1)
        items = jnp.concatenate([best[1], item + first], axis=1)
        value, at = jax.lax.top_k(values, k)
        return (value, jnp.take_along_axis(items, at, axis=1)), None

    nothing = jnp.full((B, k), -jnp.inf, jnp.float32), jnp.full((B, k), -1, jnp.int32)
    numbers = jnp.arange(num_blocks, dtype=jnp.int32)
    (value, item), _ = jax.lax.scan(step, nothing, numbers)
    return jnp.where(value > -jnp.inf, item, -1), value


def _best_of(score: Float32[Array, "B n"], k: int) -> tuple[Array, Array]:
    """Returns the `k` highest scores, best first, and where they stand; ties to the lower place."""
    B, n = score.shape
    num_chunks = n // _CHUNK
    if k >= num_chunks:
        value, at = jax.lax.top_k(score, k)
        return value, at.astype(jnp.int32)
    chunks = score.reshape(B, num_chunks, _CHUNK)
    _, chosen = jax.lax.top_k(chunks.max(axis=-1), k)
    chosen = jnp.sort(chosen, axis=1)  # So that a lower place in them is a lower place in all.
    held = jnp.take_along_axis(chunks, chosen[..., None], axis=1).reshape(B, -1)
    value, at = jax.lax.top_k(held, k)
    chunk = jnp.take_along_axis(chosen, at // _CHUNK, axis=1)
    return value, (chunk * _CHUNK + at % _CHUNK).astype(jnp.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class ExactIndex:
    """The vectors of items, to be asked and to be kept.

    Attributes:
        vectors: `[N, E]`.
        made_with: what they were made with, as JSON.
    """

    vectors: Float32[np.ndarray, "N E"]
    made_with: dict[str, Any]

    def search(
        self,
        users: Float[np.ndarray, "B E"],
        k: int,
        *,
        allowed: Bool[np.ndarray, " N"] | None = None,
        excluded: Int[np.ndarray, "B X"] | None = None,
    ) -> tuple[Int32[np.ndarray, "B k"], Float32[np.ndarray, "B k"]]:
        """Returns what `nearest_items` does.

        Raises:
            ValueError: `k` is no whole number above 0, or vectors are of another width.
        """
        require_whole("k", k)
        if np.ndim(users) != 2 or users.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"users: shape {list(np.shape(users))}; the index has vectors of width "
                f"{self.vectors.shape[1]}"
            )
        item, score = nearest_items(
            jnp.asarray(users, jnp.float32), self._on_device, allowed, excluded, k=k
        )
        return np.asarray(item), np.asarray(score)

    @functools.cached_property
    def _on_device(self) -> Float32[Array, "N E"]:
        return jnp.asarray(self.vectors, jnp.float32)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the index into a new folder, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        with files.atomic_folder(Path(folder)) as temporary:
            np.save(temporary / _VECTORS, self.vectors)
            record = {"made_with": self.made_with, "files": files.checksums(temporary, [_VECTORS])}
            files.write_sealed(temporary / _RECORD, record)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Opens an index; the vectors are memory-mapped.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        folder = Path(folder)
        shape = {"made_with": dict, "files": dict}
        record = files.read_sealed(folder / _RECORD, _REMEDY, shape)
        files.check_files(folder, record["files"], [_VECTORS], remedy=_REMEDY)
        vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise files.DamagedError(
                f"{folder / _VECTORS}: {vectors.dtype} {list(vectors.shape)}; expected float32 "
                f"[items, width]; {_REMEDY}"
            )
        return cls(vectors, record["made_with"])
