"""What to do with items that share a SID: tell them apart by one more level, or let them be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int, Int32, Num

from minirec.sids.table import MAX_CODEBOOK_SIZE, MAX_LEVELS

POLICIES = ("extra_level", "keep")


def resolve_collisions(
    codes: Int[np.ndarray, "N L"],
    policy: Literal["extra_level", "keep"] = "extra_level",
    priority: Num[np.ndarray, " N"] | None = None,
    *,
    codebook_sizes: Sequence[int] | None = None,
) -> tuple[Int32[np.ndarray, "N L2"], tuple[int, ...]]:
    """Returns the SIDs after `policy`, and their codebook sizes.

    `extra_level` appends exactly one level, as TIGER does (Rajput et al., 2023): the items of a
    SID are numbered 0, 1, 2, … there, those of higher priority first, ties to the lower item id;
    an item alone in its SID gets 0. The level is there even if nothing collides, so that the
    number of levels follows from the config alone. `keep` changes nothing.

    Args:
        codes: SIDs by item id.
        policy: `extra_level` or `keep`.
        priority: a number an item, such as its training count; None makes all equal.
        codebook_sizes: K of the levels in `codes`; None takes the highest code plus one.

    Raises:
        ValueError: an unknown policy, more than 65,536 items of one SID, no room for one more
            level, or arrays that do not fit.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy: {policy!r}; must be one of {list(POLICIES)}")
    codes = check_codes(codes)
    sizes = check_codebook_sizes(codes, codebook_sizes)
    if policy == "keep":
        return codes.astype(np.int32), sizes
    num_items, num_levels = codes.shape
    if num_levels == MAX_LEVELS:
        raise ValueError(f"codes: {num_levels} levels; one more would pass {MAX_LEVELS}")
    if priority is None:
        urgency = np.zeros(num_items, dtype=np.int64)
    else:
        priority = np.asarray(priority)
        if priority.shape != (num_items,):
            raise ValueError(f"priority: shape {list(priority.shape)}; expected [{num_items}]")
        if np.isnan(priority).any():
            raise ValueError(f"priority: item {int(np.isnan(priority).argmax())} has NaN")
        # Ranks instead of values: negating the smallest integer of a type gives itself.
        urgency = -np.unique(priority, return_inverse=True)[1].astype(np.int64)

    group = group_of_prefix(codes)
    order = np.lexsort((urgency, group))  # stable: ties stay in order of item id
    counts = np.bincount(group)
    largest = int(counts.max())
    if largest > MAX_CODEBOOK_SIZE:
        item = int(np.flatnonzero(group == counts.argmax())[0])
        raise ValueError(
            f"codes: {largest} items share the SID {codes[item].tolist()} of item {item}; one more "
            f"level can tell at most {MAX_CODEBOOK_SIZE} apart"
        )
    first = np.cumsum(counts) - counts
    number = np.empty(num_items, dtype=np.int32)
    number[order] = np.arange(num_items) - first[group[order]]
    return np.concatenate([codes, number[:, None]], axis=1).astype(np.int32), (*sizes, largest)


def group_of_prefix(codes: Int[np.ndarray, "N l"]) -> Int[np.ndarray, " N"]:
    """Returns, a row, the lexicographic rank of its tuple among the distinct ones, from 0."""
    group = np.zeros(codes.shape[0], dtype=np.int64)
    for level in range(codes.shape[1]):
        group = refine(group, codes[:, level])
    return group


def refine(group: Int[np.ndarray, " N"], code: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Returns the groups of rows that share both group and code, numbered in that order."""
    keys = group * (int(code.max()) + 1) + code
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def check_codes(codes: Int[np.ndarray, "N L"]) -> Int[np.ndarray, "N L"]:
    """Returns `codes` as int64, or raises ValueError if it is not a table of codes."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer) or 0 in codes.shape:
        raise ValueError(
            f"codes: expected a filled integer array [N, L], got {codes.dtype} {list(codes.shape)}"
        )
    wrong = (codes < 0) | (codes >= MAX_CODEBOOK_SIZE)
    if wrong.any():
        item, level = (int(place) for place in np.argwhere(wrong)[0])
        raise ValueError(
            f"codes: item {item} has {codes[item, level]} at level {level}; must lie in "
            f"[0, {MAX_CODEBOOK_SIZE})"
        )
    return codes.astype(np.int64)


def check_codebook_sizes(
    codes: Int[np.ndarray, "N L"], codebook_sizes: Sequence[int] | None
) -> tuple[int, ...]:
    """Returns K of each level, by default the highest code plus one; raises if one is too small."""
    needed = tuple(int(top) + 1 for top in codes.max(axis=0))
    if codebook_sizes is None:
        return needed
    sizes = tuple(int(size) for size in codebook_sizes)
    if len(sizes) != len(needed):
        raise ValueError(f"codebook_sizes: {len(sizes)} given for {len(needed)} levels")
    for level, (size, least) in enumerate(zip(sizes, needed, strict=True)):
        if not least <= size <= MAX_CODEBOOK_SIZE:
            raise ValueError(
                f"codebook_sizes: {size} at level {level}, where codes go up to {least - 1}; must "
                f"lie in [{least}, {MAX_CODEBOOK_SIZE}]"
            )
    return sizes
