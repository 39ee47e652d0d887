"""Codes that are all about equally full."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Float32, Int32, Int64

_BLOCK_ROWS = 1 << 14
# Balanced codes move their centroids, and moved centroids want other codes: twice is enough.
_ROUNDS = 2


def capacity(num_items: int, num_codes: int, balance: float) -> int:
    """Returns how many items a code may have: `balance` times its share, if that leaves room."""
    share = num_items / num_codes
    return max(int(np.ceil(share)), int(balance * share))


def balanced_codes(
    points: Float32[np.ndarray, "N D"],
    codebook: Float[np.ndarray, "K D"],
    alive: Bool[np.ndarray, " K"],
    balance: float,
) -> tuple[Int32[np.ndarray, " N"], Float32[np.ndarray, "K D"]]:
    """Returns a code an item, none with more than `balance` times its share, and the codes' means.

    Every item asks for its nearest code. Of a code that too many ask for, those items go that lose
    least by the nearest code that has room; ties go to the lower item. Dead codes take part only
    where the living have not room enough, at the points that fit worst.

    Args:
        points: what a level's codes are to approximate.
        codebook: where the codes begin.
        alive: which codes are in use.
        balance: at least 1.
    """
    num_items, num_codes = len(points), len(codebook)
    limit = capacity(num_items, num_codes, balance)
    codebook = np.array(codebook, np.float32)
    codebook, alive = _with_room(points, codebook, np.array(alive), limit)
    codes = np.zeros(num_items, np.int32)
    for _ in range(_ROUNDS):
        codes = _assign(points, codebook, alive, limit)
        count = np.bincount(codes, minlength=num_codes)
        of_code = scipy.sparse.csr_array(
            (np.ones(num_items, np.float32), (codes, np.arange(num_items))),
            shape=(num_codes, num_items),
        )
        codebook = (of_code @ points) / np.maximum(count, 1)[:, None].astype(np.float32)
        alive = count > 0
    return codes, codebook


def _with_room(
    points: np.ndarray, codebook: np.ndarray, alive: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Revives as many dead codes as it takes for all items to find room."""
    needed = -(-len(points) // limit) - int(alive.sum())
    if needed <= 0:
        return codebook, alive
    _, distance = _nearest(points, codebook, alive)
    worst = np.argsort(-distance, kind="stable")[:needed]
    dead = np.flatnonzero(~alive)[: len(worst)]
    codebook[dead], alive[dead] = points[worst], True
    return codebook, alive


def _assign(
    points: np.ndarray, codebook: np.ndarray, alive: np.ndarray, limit: int
) -> Int32[np.ndarray, " N"]:
    codes, distance = _nearest(points, codebook, alive)
    count = np.bincount(codes, minlength=len(codebook))
    while (count > limit).any():
        rows = np.flatnonzero((count > limit)[codes])
        has_room = alive & (count < limit)
        other, other_distance = _nearest(points[rows], codebook, has_room)
        loss = other_distance - distance[rows]
        leaving = _first_of_each(codes[rows], loss, np.maximum(count - limit, 0))
        rows, other = rows[leaving], other[leaving]
        loss, other_distance = loss[leaving], other_distance[leaving]
        coming = _first_of_each(other, loss, np.maximum(limit - count, 0))
        rows, other = rows[coming], other[coming]
        codes[rows], distance[rows] = other, other_distance[coming]
        count = np.bincount(codes, minlength=len(codebook))
    return codes


def _first_of_each(
    group: np.ndarray, loss: np.ndarray, wanted: Int64[np.ndarray, " K"]
) -> Int64[np.ndarray, " m"]:
    """Returns, of each group, the `wanted[group]` members of least loss, the lower first."""
    order = np.lexsort((loss, group))
    sizes = np.bincount(group, minlength=len(wanted))
    place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[place < wanted[group[order]]])


def _nearest(
    points: np.ndarray, codebook: np.ndarray, allowed: np.ndarray
) -> tuple[Int32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Returns each point's nearest allowed code and its squared distance."""
    places = np.flatnonzero(allowed).astype(np.int32)
    some = codebook[places]
    half = np.square(some).sum(axis=1) / 2
    codes = np.empty(len(points), np.int32)
    distance = np.empty(len(points), np.float32)
    for start in range(0, len(points), _BLOCK_ROWS):
        block = points[start : start + _BLOCK_ROWS]
        # As in `kmeans`: the point's own square chooses nothing.
        score = half - block @ some.T
        best = score.argmin(axis=1)
        codes[start : start + _BLOCK_ROWS] = places[best]
        distance[start : start + _BLOCK_ROWS] = 2 * score[np.arange(len(block)), best] + np.square(
            block
        ).sum(axis=1)
    return codes, distance
