"""Embeddings of ids without a bound: each id is several rows of one table, by several hashes.

Two ids share all their rows by a chance of one in `buckets ** hashes`, so that a table may be far
smaller than the ids are many (Tito Svenstrup et al., "Hash Embeddings", 2017; xai-org/x-algorithm
embeds users, posts and authors so).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Int32, UInt64

from minirec.files.schema import require_whole
from minirec.models.layers import normal_param


def ids_of(names: Iterable[str | None]) -> UInt64[np.ndarray, " n"]:
    """Returns an id of 64 bits for each name, the same everywhere; None is 0, which is padding."""
    return np.array([0 if name is None else _id_of(name) for name in names], np.uint64)


def hash_buckets(
    ids: UInt64[np.ndarray, "*shape"], num_buckets: int, num_hashes: int, *, salt: str = ""
) -> Int32[np.ndarray, "*shape hashes"]:
    """Returns the rows of each id, in `[1, num_buckets)`; those of id 0 are 0.

    Args:
        ids: any.
        num_buckets: rows of the table, 2 at least.
        num_hashes: rows of an id.
        salt: another one gives other rows.

    Raises:
        ValueError: too few rows or hashes.
    """
    require_whole("num_buckets", num_buckets, least=2)
    require_whole("num_hashes", num_hashes)
    ids = np.asarray(ids, np.uint64)
    rows = np.empty((*ids.shape, num_hashes), np.int32)
    for place in range(num_hashes):
        mixed = _mixed(ids ^ np.uint64(_id_of(f"{salt}/{place}")))
        rows[..., place] = mixed % np.uint64(num_buckets - 1) + np.uint64(1)
    rows[ids == 0] = 0
    return rows


def _id_of(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _mixed(ids: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Returns ids whose bits all depend on all bits: the finalizer of SplitMix64 (Steele, 2014)."""
    with np.errstate(over="ignore"):
        ids = (ids ^ (ids >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        ids = (ids ^ (ids >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ids ^ (ids >> np.uint64(31))


class HashEmbedding(nnx.Module):
    """A table whose rows stand for ids by hashes; row 0 is padding and always zeros."""

    def __init__(self, num_buckets: int, width: int, *, rngs: nnx.Rngs, param_dtype: str):
        self.rows = normal_param(rngs, (num_buckets, width), ("vocab", "embed"), 0.1, param_dtype)

    def __call__(self, buckets: Int[Array, "*shape hashes"]) -> Float[Array, "*shape E"]:
        """Returns the rows of each id one behind the other; zeros where it has none.

        Args:
            buckets: rows of ids, as `hash_buckets` returns them.
        """
        found = jnp.where((buckets > 0)[..., None], self.rows[...][buckets], 0)
        return found.reshape(*buckets.shape[:-1], -1)


def joined(
    tables: Sequence[HashEmbedding],
    identities: Int[Array, "N F hashes"],
    item: Int[Array, "*shape"],
) -> Float[Array, "*shape W"]:
    """Returns the rows of all identities of items, one behind the other.

    Args:
        tables: one an identity.
        identities: rows of every item's identities.
        item: item ids.
    """
    rows = identities[item]
    parts = [table(rows[..., place, :]) for place, table in enumerate(tables)]
    return jnp.concatenate(parts, axis=-1)
