"""A global shuffle without memory: the place of every row in every epoch, by arithmetic.

A stored permutation costs 8 bytes a row and a pause at every epoch's start, and NumPy does not
promise the same permutation from one version to the next. A small keyed bijection has none of
these faults: any position of any epoch is computed on its own, by any thread, always the same.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int, Integer

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_HIGH = np.uint64(32)


def mixed(x: Integer[np.ndarray, " *shape"]) -> Integer[np.ndarray, " *shape"]:
    """Returns 64 well-mixed bits of each element (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _round_keys(seed: int, epoch: np.ndarray) -> np.ndarray:
    """Returns keys [rounds, epochs], one for every round and epoch."""
    with np.errstate(over="ignore"):
        base = mixed(np.full(1, seed % 2**64, np.uint64) + _GOLDEN)
        base = mixed(base + (epoch.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        rounds = np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None]
        return mixed(base[None, :] + rounds * _GOLDEN)


def shuffled_rows(
    position: Int[np.ndarray, " P"],
    num_rows: int,
    *,
    seed: int,
    epoch: int | Integer[np.ndarray, " P"] = 0,
) -> Int[np.ndarray, " P"]:
    """Returns the row at each position of a shuffled epoch.

    For one seed and one epoch this is a bijection of `[0, num_rows)`: every row comes exactly
    once. It is a generalised Feistel network over `Z_a x Z_b` with `a * b` just above `num_rows`,
    walked on where it leaves the range (Black and Rogaway, "Ciphers with Arbitrary Finite
    Domains", CT-RSA 2002); integer arithmetic only, so that it is the same everywhere.

    Args:
        position: places in the epoch, each in `[0, num_rows)`.
        num_rows: number of rows, at least 1 and below 2^62.
        seed: any integer.
        epoch: the epoch of all positions, or of each.

    Returns:
        int64 rows in `[0, num_rows)`.
    """
    if not 1 <= num_rows < 2**62:
        raise ValueError(f"num_rows={num_rows}: must be at least 1 and below 2^62")
    epochs = np.atleast_1d(np.asarray(epoch))
    if len(epochs) > 1 and (epochs == epochs[0]).all():
        epochs = epochs[:1]
    keys = _round_keys(seed, epochs)
    b = math.isqrt(num_rows - 1) + 1
    a = -(-num_rows // b)
    row = _permute(position.astype(np.uint64), a, b, keys)
    # Fewer than b of the a*b places lie outside, so that the walk is short.
    outside = np.flatnonzero(row >= num_rows)
    while len(outside):
        some_keys = keys if keys.shape[1] == 1 else keys[:, outside]
        row[outside] = _permute(row[outside], a, b, some_keys)
        outside = outside[row[outside] >= num_rows]
    return row.astype(np.int64)


def _permute(x: np.ndarray, a: int, b: int, keys: np.ndarray) -> np.ndarray:
    """Returns a bijection of `[0, a*b)` applied to x."""
    high, low = np.divmod(x, np.uint64(b))
    sizes = (np.uint64(a), np.uint64(b))
    with np.errstate(over="ignore"):
        for number, key in enumerate(keys):
            size = sizes[number % 2]
            # 32 hashed bits times the size, shifted down: a number below the size, no division.
            step = ((mixed(low ^ key) >> _HIGH) * size) >> _HIGH
            moved = high + step
            moved -= (moved >= size) * size
            high, low = low, moved
        # An even number of rounds has swapped the halves back.
        return high * np.uint64(b) + low
