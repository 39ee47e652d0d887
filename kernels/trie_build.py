"""Builds a trie's arrays on the host, with NumPy: check, sort, cut into levels, pad."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MAX_LEVELS = 16
DEAD_NODE = -1
_INT32_MAX = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class TrieCapacities:
    """The padded sizes of a trie's arrays; all that a compiled program knows of a catalogue.

    Attributes:
        nodes: nodes a depth, for the depths `1 … L`.
        children: most children of one node, for the levels `0 … L-1`.
        items: item ids, `0 … items-1`.
        rows: items in all leaves together.
        items_per_leaf: most items of one leaf.
        codebook_sizes: codes a level, where the caller gave them.
    """

    nodes: tuple[int, ...]
    children: tuple[int, ...]
    items: int
    rows: int
    items_per_leaf: int
    codebook_sizes: tuple[int, ...] | None = None


class TrieArrays(NamedTuple):
    """A trie's arrays as NumPy, with the fields of `kernels.trie.Trie`."""

    child_start: tuple[np.ndarray, ...]
    token: tuple[np.ndarray, ...]
    parent: tuple[np.ndarray, ...]
    item_start: np.ndarray
    item: np.ndarray
    item_leaf: np.ndarray
    capacities: TrieCapacities


def build_arrays(
    sids: Any,
    items: Any = None,
    codebook_sizes: Sequence[int] | None = None,
    capacities: TrieCapacities | None = None,
) -> TrieArrays:
    """Returns the padded arrays of the trie of `sids`; see `kernels.trie.build_trie`."""
    sids = _check_sids(sids)
    num_rows, num_levels = sids.shape
    items = _check_items(items, num_rows)
    if codebook_sizes is not None:
        codebook_sizes = tuple(map(int, codebook_sizes))
    elif capacities is not None:
        codebook_sizes = capacities.codebook_sizes
    if codebook_sizes is not None:
        _check_codes(sids, codebook_sizes)

    order = _lexicographic_order(sids)
    sids, items = sids[order], items[order]
    first_difference = _first_difference(sids)

    # The first row of every node, depth by depth: a node of depth d starts where one of the first
    # d codes changes. Node n of depth d is the n-th such row.
    first_row = [np.zeros(1, np.int32)]
    for depth in range(1, num_levels + 1):
        first_row.append(np.flatnonzero(first_difference < depth).astype(np.int32))

    child_start, tokens, parents = [], [], []
    for level in range(num_levels):
        above, below = first_row[level], first_row[level + 1]
        start = np.searchsorted(below, above).astype(np.int32)
        child_start.append(np.append(start, np.int32(below.size)))
        tokens.append(sids[below, level])
        parents.append(np.repeat(np.arange(above.size, dtype=np.int32), np.diff(child_start[-1])))
    item_start = np.append(first_row[-1], np.int32(num_rows))
    item_leaf = np.full(int(items.max()) + 1, DEAD_NODE, np.int32)
    item_leaf[items] = np.repeat(np.arange(first_row[-1].size, dtype=np.int32), np.diff(item_start))

    needed = TrieCapacities(
        nodes=tuple(rows.size for rows in first_row[1:]),
        children=tuple(int(np.diff(start).max()) for start in child_start),
        items=item_leaf.size,
        rows=num_rows,
        items_per_leaf=int(np.diff(item_start).max()),
        codebook_sizes=codebook_sizes,
    )
    if capacities is None:
        capacities = _rounded_up(needed)
    _check_capacities(needed, capacities)
    depth_nodes = (1, *capacities.nodes)
    return TrieArrays(
        # Nodes past the last one have no children and no items: their ranges are empty.
        child_start=tuple(
            _padded(start, nodes + 1, start[-1])
            for start, nodes in zip(child_start, depth_nodes[:-1], strict=True)
        ),
        token=tuple(_padded(t, n, 0) for t, n in zip(tokens, capacities.nodes, strict=True)),
        parent=tuple(_padded(p, n, 0) for p, n in zip(parents, capacities.nodes, strict=True)),
        item_start=_padded(item_start, capacities.nodes[-1] + 1, num_rows),
        item=_padded(items, capacities.rows, -1),
        item_leaf=_padded(item_leaf, capacities.items, DEAD_NODE),
        capacities=capacities,
    )


def _check_sids(sids: Any) -> np.ndarray:
    """Returns `sids` as int32 `[N, L]`, or raises a `ValueError` that names the row at fault."""
    if not hasattr(sids, "shape"):
        sids = list(sids)
        for row, sid in enumerate(sids):
            if not hasattr(sid, "__len__"):
                raise ValueError(f"sids: row {row} is {sid!r}; it must be a tuple of codes")
            if len(sid) != len(sids[0]):
                raise ValueError(
                    f"sids: row {row} has {len(sid)} codes, row 0 has {len(sids[0])}; every SID "
                    "must have the same number of levels"
                )
    array = np.asarray(sids)
    if array.ndim >= 1 and array.shape[0] == 0:
        raise ValueError("sids: the catalogue is empty; a trie needs at least one SID")
    if array.ndim != 2:
        raise ValueError(f"sids: shape {array.shape}; it must be [items, levels]")
    if not 1 <= array.shape[1] <= MAX_LEVELS:
        raise ValueError(f"sids: {array.shape[1]} levels; there must be 1 to {MAX_LEVELS}")
    if array.shape[0] > _INT32_MAX:
        raise ValueError(f"sids: {array.shape[0]} rows; there may be at most {_INT32_MAX}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"sids: dtype {array.dtype}; codes must be integers")
    if array.min() < 0 or array.max() > _INT32_MAX:
        row, level = np.argwhere((array < 0) | (array > _INT32_MAX))[0]
        raise ValueError(
            f"sids: row {row} has code {array[row, level]} at level {level}; codes must lie in "
            f"[0, {_INT32_MAX}]"
        )
    return array.astype(np.int32, copy=False)


def _check_items(items: Any, num_rows: int) -> np.ndarray:
    """Returns `items` as int32 `[N]`, `arange(N)` by default."""
    if items is None:
        return np.arange(num_rows, dtype=np.int32)
    array = np.asarray(items)
    if array.shape != (num_rows,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"items: shape {array.shape} of {array.dtype}; it must hold one integer for each of "
            f"the {num_rows} SIDs"
        )
    if array.min() < 0 or array.max() >= _INT32_MAX:
        row = int(np.flatnonzero((array < 0) | (array >= _INT32_MAX))[0])
        raise ValueError(
            f"items: row {row} is item {array[row]}; item ids must lie in [0, {_INT32_MAX})"
        )
    array = array.astype(np.int32)
    order = np.argsort(array, kind="stable")
    twin = np.flatnonzero(array[order[1:]] == array[order[:-1]])
    if twin.size:
        first, second = order[twin[0]], order[twin[0] + 1]
        raise ValueError(
            f"items: rows {first} and {second} are both item {array[first]}; an item has one SID"
        )
    return array


def _check_codes(sids: np.ndarray, codebook_sizes: tuple[int, ...]) -> None:
    if len(codebook_sizes) != sids.shape[1]:
        raise ValueError(
            f"codebook_sizes: {len(codebook_sizes)} sizes for SIDs of {sids.shape[1]} levels"
        )
    for level, size in enumerate(codebook_sizes):
        if sids[:, level].max() >= size:
            row = int(np.argmax(sids[:, level] >= size))
            raise ValueError(
                f"sids: row {row} has code {sids[row, level]} at level {level}, whose codebook "
                f"has {size} codes"
            )


def _lexicographic_order(sids: np.ndarray) -> np.ndarray:
    """Returns the stable order of the rows, as `np.lexsort` over the levels would.

    Neighbouring levels share a 64-bit word, most significant first, so that 1 to 16 levels sort
    as a few words: 8 levels of 2048 codes are two.
    """
    words: list[np.ndarray] = []
    free_bits = 0
    for codes in sids.T:
        bits = max(int(codes.max()).bit_length(), 1)
        if bits > free_bits:
            words.append(codes.astype(np.uint64))
            free_bits = 64 - bits
        else:
            words[-1] <<= np.uint64(bits)
            words[-1] |= codes.astype(np.uint64)
            free_bits -= bits
    return np.lexsort(words[::-1])


def _first_difference(sids: np.ndarray) -> np.ndarray:
    """Returns, for each sorted row, the first level where it differs from the row before.

    The first row differs at level 0; a row equal to the one before gets `L`.
    """
    num_rows, num_levels = sids.shape
    difference = np.full(num_rows, num_levels, np.int8)
    for level in reversed(range(num_levels)):
        codes = np.ascontiguousarray(sids[:, level])
        difference[1:][codes[1:] != codes[:-1]] = level
    difference[0] = 0
    return difference


def _rounded_up(needed: TrieCapacities) -> TrieCapacities:
    return dataclasses.replace(
        needed,
        nodes=tuple(_round_up(n) for n in needed.nodes),
        children=tuple(_round_up(n) for n in needed.children),
        items=_round_up(needed.items),
        rows=_round_up(needed.rows),
        items_per_leaf=_round_up(needed.items_per_leaf),
    )


def _round_up(size: int) -> int:
    """Returns the next of 1, 2, 4, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, …: a quarter octave."""
    octave = 1 << (size - 1).bit_length() if size > 1 else 1
    if octave <= 8:
        return octave
    step = octave // 8
    return -(-size // step) * step


def _check_capacities(needed: TrieCapacities, given: TrieCapacities) -> None:
    if len(given.nodes) != len(needed.nodes) or len(given.children) != len(needed.children):
        raise ValueError(
            f"capacities: made for {len(given.nodes)} levels, the SIDs have {len(needed.nodes)}"
        )
    if given.codebook_sizes != needed.codebook_sizes:
        raise ValueError(
            f"codebook_sizes: {needed.codebook_sizes} differ from the capacities' "
            f"{given.codebook_sizes}"
        )
    for field in ("nodes", "children", "items", "rows", "items_per_leaf"):
        need, have = getattr(needed, field), getattr(given, field)
        if np.any(np.asarray(need) > np.asarray(have)):
            raise ValueError(f"capacities.{field}: {have} is too small; the SIDs need {need}")


def _padded(array: np.ndarray, size: int, fill: int) -> np.ndarray:
    padded = np.full(size, fill, np.int32)
    padded[: array.size] = array
    return padded
