"""Codebooks of a residual quantiser, which encode new items and which models may start from."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, Int64

from minirec import files
from minirec.files.schema import COUNT, NUMBER, SHA256, Kind, is_whole
from minirec.sids.kmeans import Centroids, assign
from minirec.sids.table import MAX_CODEBOOK_SIZE, MAX_LEVELS

# Distances held at one time are at most this many (4 MiB): they stay in a CPU's cache.
_BLOCK_DISTANCES = 1 << 20
# Far from where squares overflow float32.
_LARGEST_VALUE = 1e15
_FORMAT_VERSION = 1
_ABOUT = {
    "format_version": COUNT,
    "num_levels": Kind(
        f"a number of levels, 1 to {MAX_LEVELS}",
        lambda value: is_whole(value) and 1 <= value <= MAX_LEVELS,
    ),
    "sids_sha256?": SHA256,
    "config?": {"collisions": str, "vectors": str, "text_weight": NUMBER},
}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Codebooks:
    """A residual quantiser's codebooks.

    Attributes:
        codebooks: a level, `[K, D]` float32; a vector is approximated by the sum of its codes'
            rows. Rows of codes that no item has are zeros.
        counts: a level, `[K]`: how many items have each code.
    """

    codebooks: tuple[Float32[np.ndarray, "K D"], ...]
    counts: tuple[Int64[np.ndarray, " K"], ...]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K of each level."""
        return tuple(codebook.shape[0] for codebook in self.codebooks)

    @property
    def width(self) -> int:
        """D, the width of the vectors."""
        return self.codebooks[0].shape[1]

    def latent(self, vectors: Float[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
        """Returns what the codebooks' sums approximate: here the vectors themselves."""
        return self._checked(vectors)

    def encode(self, vectors: Float[np.ndarray, "n D"]) -> Int32[np.ndarray, "n L"]:
        """Returns the SIDs of vectors, old or new, by these codebooks; nothing moves.

        Only codes that some item had when the codebooks were made are given.

        Raises:
            ValueError: the vectors are not finite, or not of the codebooks' width.
        """
        vectors = self.latent(vectors)
        residual = in_blocks(vectors, block_rows(self.codebook_sizes))
        codes = []
        for codebook, count in zip(self.codebooks, self.counts, strict=True):
            code, residual = encode_level(residual, jnp.asarray(codebook), jnp.asarray(count > 0))
            codes.append(np.asarray(code).reshape(-1)[: len(vectors)])
        return np.stack(codes, axis=1)

    def decode(self, codes: Int[np.ndarray, "n L"]) -> Float32[np.ndarray, "n D"]:
        """Returns the vectors that SIDs stand for: the sum of their codes' codebook rows."""
        codes = np.asarray(codes)
        return np.sum(
            [codebook[codes[:, level]] for level, codebook in enumerate(self.codebooks)], axis=0
        )

    def save(
        self,
        path: str | os.PathLike[str],
        about: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Writes an `.npz`: `codebook_0`, `counts_0`, …, and `about`, a JSON object as bytes.

        Args:
            path: where.
            about: what the codebooks were made on, in plain values.
            arrays: what else new items need, by names that begin otherwise.
        """
        levels: dict[str, Any] = {}
        for level, (codebook, count) in enumerate(zip(self.codebooks, self.counts, strict=True)):
            levels[f"codebook_{level}"], levels[f"counts_{level}"] = codebook, count
        record = {"format_version": _FORMAT_VERSION, "num_levels": len(self.codebooks), **about}
        text = np.frombuffer(json.dumps(record, sort_keys=True).encode(), np.uint8)
        levels |= {"about": text, **(arrays or {})}
        with files.atomic_path(path) as temporary:
            np.savez(temporary, allow_pickle=False, **levels)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> tuple[Self, dict[str, Any], dict[str, Any]]:
        """Returns what `save` wrote: the codebooks, `about` and the other arrays.

        Raises:
            ValueError: there is no such file, it is damaged, or its arrays do not fit together.
        """
        path = Path(path)
        try:
            arrays = files.read_npz(path)
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such file; launch.make_sids writes it") from error
        about = files.take_json(arrays, "about", _ABOUT, path)
        if about["format_version"] != _FORMAT_VERSION:
            raise ValueError(
                f"{path}: format_version is {about['format_version']}; this program reads "
                f"{_FORMAT_VERSION}"
            )
        codebooks, counts, width = [], [], None
        for level in range(about["num_levels"]):
            codebook = files.take_array(arrays, f"codebook_{level}", "float32", (None, width), path)
            size, width = codebook.shape
            if not 1 <= size <= MAX_CODEBOOK_SIZE or width < 1:
                raise ValueError(
                    f"{path}: codebook_{level}: shape {list(codebook.shape)}; there must be 1 to "
                    f"{MAX_CODEBOOK_SIZE} codes of width 1 or more"
                )
            codebooks.append(codebook)
            counts.append(files.take_array(arrays, f"counts_{level}", "int64", (size,), path))
            if counts[-1].min() < 0:
                raise ValueError(f"{path}: counts_{level}: {counts[-1].min()} items have a code")
        return cls(codebooks=tuple(codebooks), counts=tuple(counts)), about, arrays

    def _checked(self, vectors: Float[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
        vectors = check_vectors(vectors)
        if vectors.shape[1] != self.width:
            raise ValueError(
                f"vectors: {vectors.shape[1]} wide; the codebooks are {self.width} wide"
            )
        return vectors


@jax.jit
def encode_level(
    residual: Float32[Array, "blocks R D"],
    codebook: Float32[Array, "K D"],
    used: Array,
) -> tuple[Int32[Array, "blocks R"], Float32[Array, "blocks R D"]]:
    """Returns one level's codes and what they leave over.

    Making codebooks and encoding new items go through here alike, so that they agree to the bit.
    """
    middle = jnp.where(used[:, None], codebook, 0).sum(axis=0) / used.sum()
    code = assign(residual - middle, Centroids(codebook - middle, used))
    return code, residual - codebook[code]


def check_vectors(vectors: Float[np.ndarray, "N D"]) -> Float32[np.ndarray, "N D"]:
    """Returns item vectors as float32; raises ValueError unless they are real and finite."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"vectors: expected a filled real array [N, D], got {vectors.dtype} "
            f"{list(vectors.shape)}"
        )
    sound = (np.abs(vectors) <= _LARGEST_VALUE).all(axis=1)
    if not sound.all():
        row = int(sound.argmin())
        raise ValueError(
            f"vectors: row {row} holds NaN, an infinity or a value beyond {_LARGEST_VALUE:g}: "
            f"{vectors[row]}"
        )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def check_sizes(num_levels: int, codebook_size: int | Sequence[int]) -> tuple[int, ...]:
    """Returns K of each level, or raises ValueError if one is out of range."""
    if not 1 <= num_levels <= MAX_LEVELS:
        raise ValueError(f"num_levels: {num_levels}; must lie in [1, {MAX_LEVELS}]")
    if isinstance(codebook_size, int | np.integer):
        sizes = (int(codebook_size),) * num_levels
    else:
        sizes = tuple(int(size) for size in codebook_size)
    if len(sizes) != num_levels:
        raise ValueError(f"codebook_size: {len(sizes)} given for {num_levels} levels")
    for level, size in enumerate(sizes):
        if not 1 <= size <= MAX_CODEBOOK_SIZE:
            raise ValueError(
                f"codebook_size: {size} at level {level}; must lie in [1, {MAX_CODEBOOK_SIZE}]"
            )
    return sizes


def block_rows(sizes: tuple[int, ...]) -> int:
    """Rows a block; from the codebooks alone, so that a block looks alike for any N."""
    return int(np.clip(1 << (_BLOCK_DISTANCES // max(sizes)).bit_length() - 1, 64, 4096))


def in_blocks(rows: Float32[np.ndarray, "N D"], rows_a_block: int) -> Float32[Array, "blocks R D"]:
    """Returns rows in blocks, the last one filled up with zeros."""
    num_blocks = -(-len(rows) // rows_a_block)
    padded = np.zeros((num_blocks * rows_a_block, rows.shape[1]), dtype=np.float32)
    padded[: len(rows)] = rows
    return jnp.asarray(padded.reshape(num_blocks, rows_a_block, rows.shape[1]))
