"""Which catalogue a trie is of, as data: a digest goes along with what was made with the trie.

A static field would tell catalogues apart as well, but compile every program anew for each of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from kernels.trie.layout import DIGEST_WORDS, TrieCapacities


def digest_of(
    capacities: TrieCapacities, arrays: Iterable[np.ndarray]
) -> Int32[np.ndarray, " words"]:
    """Returns the digest of a trie's arrays, int32 `[DIGEST_WORDS]`."""
    # Equal capacities give the same text, be their integers Python's or NumPy's.
    sizes = json.dumps(dataclasses.asdict(capacities), default=int)
    found = hashlib.blake2b(sizes.encode(), digest_size=4 * DIGEST_WORDS)
    # Bytes, without their types and shapes: the capacities above say these.
    for array in arrays:
        found.update(np.ascontiguousarray(array))
    return np.frombuffer(found.digest(), np.int32).copy()


def by_user(digest: Int32[Array, " words"], batch: int) -> Int32[Array, "B words"]:
    """Returns a digest for each user, to be taken apart and put together as other rows are."""
    return jnp.broadcast_to(digest, (batch, *digest.shape))


def check(name: str, digest: Int32[Array, "*B words"], wanted: Int32[Array, " words"]) -> None:
    """Raises a `ValueError` where a digest is not the one wanted, if both are at hand.

    Args:
        name: what an error calls that which has the digest.
        digest: what something was made with, one for all users or one each.
        wanted: the digest of the trie that it is used with.
    """
    if digest is wanted or not (_at_hand(digest) and _at_hand(wanted)):
        return
    rows, row = np.asarray(digest).reshape(-1, DIGEST_WORDS), np.asarray(wanted)
    other = np.flatnonzero(np.any(rows != row, axis=-1))
    if other.size:
        raise ValueError(
            f"{name}: made with the trie of another catalogue, digest {_hex(rows[other[0]])}; the "
            f"trie that it is used with has {_hex(row)}. Make it anew with this one"
        )


def equal(digest: Int32[Array, "*B words"], wanted: Int32[Array, " words"]) -> Bool[Array, "*B"]:
    """Returns which digests are the one wanted; no reduction, so that XLA can fuse it anywhere."""
    words = [digest[..., word] == wanted[word] for word in range(DIGEST_WORDS)]
    return functools.reduce(jnp.logical_and, words)


def _at_hand(array: Any) -> bool:
    """Returns whether this process can read an array's values now."""
    if not isinstance(array, jax.Array):
        return isinstance(array, np.ndarray)
    return not isinstance(array, jax.core.Tracer) and (
        array.is_fully_addressable or array.is_fully_replicated
    )


def _hex(digest: np.ndarray) -> str:
    return digest.tobytes().hex()[:12]
