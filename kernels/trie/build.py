"""Builds a trie's arrays on the host, with NumPy: check, sort, fill the planned tables."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kernels.trie.digest import digest_of
from kernels.trie.layout import (
    BLOCK,
    LINE,
    MAX_CODE_BITS,
    MaskCapacities,
    RowCapacities,
    TrieCapacities,
    round_up,
)
from kernels.trie.plan import Catalogue, packed, plan

MAX_LEVELS = 16
DEAD_NODE = -1
_INT32_MAX = np.iinfo(np.int32).max
_MAX_CODE = (1 << MAX_CODE_BITS) - 1


class TableArrays(NamedTuple):
    """A table's arrays as NumPy; a mask table has one word, its mask."""

    words: tuple[np.ndarray, ...]
    below: np.ndarray | None
    capacities: MaskCapacities | RowCapacities


class TrieArrays(NamedTuple):
    """A trie's arrays as NumPy, with the fields of `kernels.trie.Trie`."""

    tables: tuple[TableArrays, ...]
    item_start: np.ndarray
    item: np.ndarray
    item_leaf: np.ndarray
    digest: np.ndarray
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
        codebook_sizes = tuple(map(operator.index, codebook_sizes))
    elif capacities is not None:
        codebook_sizes = capacities.codebook_sizes
    if codebook_sizes is not None:
        _check_codes(sids, codebook_sizes)
    if capacities is not None:
        _check_same_codes(capacities, num_levels, codebook_sizes)

    catalogue, items, item_start = _sorted(sids, items)
    tables = plan(catalogue, codebook_sizes) if capacities is None else capacities.tables
    filled, leaf = _fill(catalogue, tables)

    item_leaf = np.full(int(items.max()) + 1, DEAD_NODE, np.int32)
    counts = np.diff(item_start)
    item_leaf[items] = np.repeat(leaf, counts)
    tables = tuple(table.capacities for table in filled)
    needed = TrieCapacities(
        tables=tables,
        items=item_leaf.size,
        rows=num_rows,
        items_per_leaf=int(counts.max()),
        codebook_sizes=codebook_sizes,
    )
    if capacities is None:
        capacities = dataclasses.replace(
            needed,
            items=round_up(needed.items),
            rows=round_up(needed.rows),
            items_per_leaf=round_up(needed.items_per_leaf),
        )
    for field in ("items", "rows", "items_per_leaf"):
        _check_room(field, getattr(needed, field), getattr(capacities, field))
    # Edges between two leaves hold no items: both their ends are the next leaf's start.
    starts = np.zeros(tables[-1].edges + 1, np.int32)
    # Each leaf's count, one place on: summed up, where the next one starts.
    starts[leaf + 1] = counts
    item_leaf = _padded(item_leaf, capacities.items, DEAD_NODE)
    words = [array for table in filled for array in (*table.words, table.below)]
    return TrieArrays(
        tables=filled,
        item_start=np.cumsum(starts, dtype=np.int32),
        item=_padded(items, capacities.rows, -1),
        item_leaf=item_leaf,
        # All that says what a node and a leaf's items are; not in which order the items come.
        digest=digest_of(capacities, [a for a in (*words, item_leaf) if a is not None]),
        capacities=capacities,
    )


def _check_sids(sids: Any) -> np.ndarray:
    """Returns `sids` as int32 `[N, L]`, or raises a `ValueError` that names the row at fault."""
    if not hasattr(sids, "shape"):
        if not isinstance(sids, Iterable):
            raise ValueError(f"sids: a {type(sids).__name__}; it must be int [items, levels]")
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
    if array.min() < 0 or array.max() > _MAX_CODE:
        row, level = np.argwhere((array < 0) | (array > _MAX_CODE))[0]
        raise ValueError(
            f"sids: row {row} has code {array[row, level]} at level {level}; codes must lie in "
            f"[0, {_MAX_CODE}]"
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
        if not 1 <= size <= _MAX_CODE + 1:
            raise ValueError(
                f"codebook_sizes: {size} codes at level {level}; there may be 1 to {_MAX_CODE + 1}"
            )
        if sids[:, level].max() >= size:
            row = int(np.argmax(sids[:, level] >= size))
            raise ValueError(
                f"sids: row {row} has code {sids[row, level]} at level {level}, whose codebook "
                f"has {size} codes"
            )


def _check_same_codes(
    given: TrieCapacities, num_levels: int, codebook_sizes: tuple[int, ...] | None
) -> None:
    if given.num_levels != num_levels:
        raise ValueError(
            f"capacities: made for {given.num_levels} levels, the SIDs have {num_levels}"
        )
    if given.codebook_sizes != codebook_sizes:
        raise ValueError(
            f"codebook_sizes: {codebook_sizes} differ from the capacities' {given.codebook_sizes}"
        )


def _check_room(field: str, need: int, have: int) -> None:
    if need > have:
        raise ValueError(f"capacities.{field}: {have} is too small; the SIDs need {need}")


def _sorted(sids: np.ndarray, items: np.ndarray) -> tuple[Catalogue, np.ndarray, np.ndarray]:
    """Returns the distinct SIDs in order, the items in that order, and each leaf's first item."""
    order = _lexicographic_order(sids)
    num_rows, num_levels = sids.shape
    # The last level is written first, so that the smallest level at which two rows differ stays.
    # int8 holds 16 levels.
    difference = np.full(num_rows, num_levels, np.int8)
    codes = [np.ascontiguousarray(sids[:, level])[order] for level in range(num_levels)]
    for level in reversed(range(num_levels)):
        difference[1:][codes[level][1:] != codes[level][:-1]] = level
    difference[0] = -1
    # Rows that differ nowhere from the one before share its SID.
    item_start = np.flatnonzero(difference < num_levels)
    if item_start.size < num_rows:
        codes = [of_level[item_start] for of_level in codes]
        difference = difference[item_start]
    return Catalogue(tuple(codes), difference), items[order], np.append(item_start, num_rows)


def _lexicographic_order(sids: np.ndarray) -> np.ndarray:
    """Returns the stable order of the rows, as `np.lexsort` over the levels would.

    Neighbouring levels share a 64-bit word, most significant first. Large catalogues sort by the
    first word alone, not stably, which is several times as fast, and then put in order what shares
    it.
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
    order = np.argsort(words[0])
    first = words[0][order]
    # A row is tied with the one before it or with the one behind it.
    tied = np.zeros(first.size, bool)
    np.equal(first[1:], first[:-1], out=tied[1:])
    tied[:-1] |= tied[1:]
    place = np.flatnonzero(tied)
    rows = order[place]
    # The row itself is the last key, which makes the order stable.
    order[place] = rows[np.lexsort([rows, *(word[rows] for word in reversed(words))])]
    return order


def _fill(
    catalogue: Catalogue, tables: tuple[MaskCapacities | RowCapacities, ...]
) -> tuple[tuple[TableArrays, ...], np.ndarray]:
    """Returns the tables filled, and the leaf of each SID."""
    filled: list[TableArrays] = []
    edges, table = np.zeros(0, np.int64), None
    for index, sizes in enumerate(tables):
        name = f"tables[{index}]"
        if isinstance(sizes, MaskCapacities):
            nodes, words, next_edges = _fill_mask(catalogue, sizes, name)
        else:
            nodes, words, next_edges = _fill_rows(catalogue, sizes, name)
        if table is not None:
            # Above a mask, edges that are numbered without gaps are its nodes already.
            below = None
            if isinstance(sizes, RowCapacities) or isinstance(table.capacities, RowCapacities):
                below = np.zeros(table.capacities.edges, np.int32)
                below[edges] = nodes
                # Gaps repeat the edge before them, so that the whole rises.
                below = np.maximum.accumulate(below).reshape(-1, LINE)
            filled.append(table._replace(below=below))
        table, edges = TableArrays(words, None, sizes), next_edges
    assert table is not None
    return (*filled, table), edges


def _fill_mask(
    catalogue: Catalogue, sizes: MaskCapacities, name: str
) -> tuple[np.ndarray, tuple[np.ndarray, ...], np.ndarray]:
    """Returns the nodes of the level's depth, the mask, and the edges of the next depth's nodes."""
    starts, below = catalogue.starts(sizes.level), catalogue.starts(sizes.level + 1)
    codes = catalogue.codes[sizes.level][below].astype(np.int64) - sizes.first_token
    if codes.min() < 0 or codes.max() >= sizes.span:
        raise ValueError(
            f"capacities.{name}: for tokens {sizes.first_token} to "
            f"{sizes.first_token + sizes.span - 1}; level {sizes.level} of the SIDs has "
            f"{codes.min() + sizes.first_token} to {codes.max() + sizes.first_token}"
        )
    _check_room(f"{name}.nodes", starts.size, sizes.nodes)
    _check_room(f"{name}.edges", below.size, sizes.edges)
    first_edge = np.searchsorted(below, starts)
    node = np.repeat(np.arange(starts.size), np.diff(first_edge, append=below.size))
    line = node * sizes.blocks + codes // BLOCK
    # Token first + 2048 b + 128 c + lane: bit c of word `lane` of line b.
    bit = np.left_shift(1, codes % BLOCK // LINE).astype(np.uint32)
    mask = np.zeros((sizes.nodes * sizes.blocks, LINE), np.uint32)
    # No two edges share a bit, so what is summed up by word is what is set.
    word = line * LINE + codes % LINE
    np.bitwise_or.at(mask.reshape(-1), word, bit)
    # Edges before each line. Bits 16 to 31 of its first two words hold the number, because the bits
    # of 16 chunks leave these free.
    base = np.searchsorted(line, np.arange(len(mask))).astype(np.uint32)
    mask[:, 0] |= (base & 0xFFFF) << 16
    mask[:, 1] |= base >> 16 << 16
    return np.arange(starts.size), (mask.view(np.int32),), np.arange(below.size)


def _fill_rows(
    catalogue: Catalogue, sizes: RowCapacities, name: str
) -> tuple[np.ndarray, tuple[np.ndarray, ...], np.ndarray]:
    """Returns the nodes of the first level's depth, the words, and the rows' edges."""
    end = sizes.level + sizes.num_levels
    rows = catalogue.starts(end)
    for index, columns in enumerate(sizes.columns):
        first = np.searchsorted(rows, catalogue.starts(sizes.level + index))
        count = np.diff(first, append=rows.size)
        _check_room(f"{name}.columns[{index}]", int(count.max()), columns)
    first = np.searchsorted(rows, catalogue.starts(sizes.level))
    count = np.diff(first, append=rows.size)
    nodes, lines = packed(count)
    _check_room(f"{name}.lines", lines, sizes.lines)
    place = np.repeat(nodes - first, count) + np.arange(rows.size)

    difference = catalogue.difference[rows]
    words: list[np.ndarray] = []
    for index, field in enumerate(sizes.fields):
        level = sizes.level + index
        codes = catalogue.codes[level][rows]
        if int(codes.max()).bit_length() > field.bits:
            raise ValueError(
                f"capacities.{name}.bits[{index}]: {field.bits} is too small for code "
                f"{codes.max()} of level {level}"
            )
        # A word's first level brings the word, and says how its rows differ for all its levels.
        if field.place == 0:
            levels = sum(other.word == field.word for other in sizes.fields)
            word = np.zeros(sizes.edges, np.int32)
            relative = np.clip(difference.astype(np.int32) - (level - 1), 0, levels + 1)
            word[place] = relative
            words.append(word)
        words[-1][place] |= codes << field.shift
    return nodes, tuple(word.reshape(-1, LINE) for word in words), place


def _padded(array: np.ndarray, size: int, fill: int) -> np.ndarray:
    padded = np.full(size, fill, np.int32)
    padded[: array.size] = array
    return padded
