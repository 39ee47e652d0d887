"""What to do with items that share a SID: one more level, the nearest free SID, or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Int32, Int64, Num

from minirec.sids.codebooks import Codebooks
from minirec.sids.free_sids import FreeSids
from minirec.sids.table import MAX_CODEBOOK_SIZE, MAX_LEVELS

POLICIES = ("extra_level", "spare_capacity", "keep")


def resolve_collisions(
    codes: Int[np.ndarray, "N L"],
    policy: Literal["extra_level", "spare_capacity", "keep"] = "extra_level",
    priority: Num[np.ndarray, " N"] | None = None,
    *,
    codebook_sizes: Sequence[int] | None = None,
    quantiser: Codebooks | None = None,
    vectors: Float[np.ndarray, "N D"] | None = None,
) -> tuple[Int32[np.ndarray, "N L2"], tuple[int, ...]]:
    """Returns the SIDs after `policy`, and their codebook sizes.

    `extra_level` appends exactly one level, as TIGER does (Rajput et al., 2023): the items of a
    SID are numbered 0, 1, 2, … there, those of higher priority first, ties to the lower item id;
    an item alone in its SID gets 0. The level is there even if nothing collides, so that the
    number of levels follows from the config alone. `spare_capacity` keeps the levels: of the items
    of a SID, the first stays and each other one moves to a SID that nobody has, as near as there
    is one below the longest prefix that has any left: SIDs are unique wherever there are as many as
    items. `keep` changes nothing.

    Args:
        codes: SIDs by item id.
        policy: one of `POLICIES`.
        priority: a number an item, such as its training count; None makes all equal.
        codebook_sizes: K of the levels in `codes`; None takes the highest code plus one.
        quantiser: what made the codes; `spare_capacity` needs it to tell what is near.
        vectors: the items' vectors; the same.

    Raises:
        ValueError: an unknown policy, more than 65,536 items of one SID, no room for one more
            level, more items than SIDs, or arrays that do not fit.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy: {policy!r}; must be one of {list(POLICIES)}")
    codes = check_codes(codes)
    sizes = check_codebook_sizes(codes, codebook_sizes)
    if policy == "keep":
        return codes.astype(np.int32), sizes
    num_items, num_levels = codes.shape
    if policy == "spare_capacity":
        if quantiser is None or vectors is None:
            raise ValueError(
                "policy: 'spare_capacity' moves items to near SIDs, which only codebooks tell; "
                "given SIDs have none: use 'extra_level' or 'keep'"
            )
        order, first, group = _by_group(codes, priority)
        moves = order[np.arange(num_items) != first[group[order]]]
        return _moved(codes, sizes, moves, _urgency(priority, num_items), quantiser, vectors), sizes
    if num_levels == MAX_LEVELS:
        raise ValueError(f"codes: {num_levels} levels; one more would pass {MAX_LEVELS}")
    order, first, group = _by_group(codes, priority)
    counts = np.bincount(group)
    largest = int(counts.max())
    if largest > MAX_CODEBOOK_SIZE:
        item = int(np.flatnonzero(group == counts.argmax())[0])
        raise ValueError(
            f"codes: {largest} items share the SID {codes[item].tolist()} of item {item}; one more "
            f"level can tell at most {MAX_CODEBOOK_SIZE} apart"
        )
    number = np.empty(num_items, dtype=np.int32)
    number[order] = np.arange(num_items) - first[group[order]]
    return np.concatenate([codes, number[:, None]], axis=1).astype(np.int32), (*sizes, largest)


def _by_group(
    codes: Int[np.ndarray, "N L"], priority: Num[np.ndarray, " N"] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns items by SID and within it by priority, where each SID begins, and items' SIDs."""
    group = group_of_prefix(codes)
    order = np.lexsort((_urgency(priority, len(codes)), group))  # stable: ties by item id
    counts = np.bincount(group)
    return order, np.cumsum(counts) - counts, group


def _urgency(priority: Num[np.ndarray, " N"] | None, num_items: int) -> Int64[np.ndarray, " N"]:
    """Returns a number an item, the lower the higher its priority."""
    if priority is None:
        return np.zeros(num_items, np.int64)
    priority = np.asarray(priority)
    if priority.shape != (num_items,):
        raise ValueError(f"priority: shape {list(priority.shape)}; expected [{num_items}]")
    if np.isnan(priority).any():
        raise ValueError(f"priority: item {int(np.isnan(priority).argmax())} has NaN")
    # Ranks instead of values: negating the smallest integer of a type gives itself.
    return -np.unique(priority, return_inverse=True)[1].astype(np.int64)


def _moved(
    codes: Int[np.ndarray, "N L"],
    sizes: tuple[int, ...],
    moves: Int[np.ndarray, " m"],
    urgency: Int64[np.ndarray, " N"],
    quantiser: Codebooks,
    vectors: Float[np.ndarray, "N D"],
) -> Int32[np.ndarray, "N L"]:
    """Returns the codes with `moves` gone to free SIDs, those of higher priority first."""
    if quantiser.codebook_sizes != sizes or len(vectors) != len(codes):
        raise ValueError(
            f"quantiser: codebooks of {quantiser.codebook_sizes} and {len(vectors)} vectors for "
            f"{len(codes)} SIDs over {sizes}"
        )
    if len(codes) > math.prod(sizes):
        raise ValueError(
            f"codes: {len(codes)} items, but only {math.prod(sizes)} SIDs over {sizes}; policy "
            "'spare_capacity' needs larger codebooks or one more level"
        )
    free = FreeSids([np.arange(size) for size in sizes], codes)
    codes = codes.astype(np.int32)
    moves = moves[np.lexsort((moves, urgency[moves]))]
    latent = quantiser.latent(vectors[moves])
    for item, vector in zip(moves, latent, strict=True):
        codes[item] = free.take(codes[item], nearest_first(quantiser, vector))
    return codes


def nearest_first(
    quantiser: Codebooks, vector: Float[np.ndarray, " D"]
) -> Callable[[Sequence[int]], Int[np.ndarray, " K"]]:
    """Returns a function from a prefix to the next level's codes, the nearest to a vector first.

    Codes that no item had when the codebooks were made stand for no vector, and come last.
    """

    def preference(prefix: Sequence[int]) -> Int[np.ndarray, " K"]:
        level = len(prefix)
        rest = vector - sum(
            (quantiser.codebooks[above][code] for above, code in enumerate(prefix)),
            np.zeros_like(vector),
        )
        distance = np.square(rest - quantiser.codebooks[level]).sum(axis=1)
        return np.argsort(np.where(quantiser.counts[level] > 0, distance, np.inf), kind="stable")

    return preference


def group_of_prefix(codes: Int[np.ndarray, "N l"]) -> Int[np.ndarray, " N"]:
    """Returns, a row, the lexicographic rank of its tuple among the distinct ones, from 0."""
    return [np.zeros(len(codes), np.int64), *prefix_groups(codes)][-1]


def prefix_groups(codes: Int[np.ndarray, "N l"]) -> list[Int[np.ndarray, " N"]]:
    """Returns `group_of_prefix` of the first code, of the first two, …."""
    groups, group = [], np.zeros(len(codes), np.int64)
    for level in range(codes.shape[1]):
        group = refine(group, codes[:, level])
        groups.append(group)
    return groups


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
