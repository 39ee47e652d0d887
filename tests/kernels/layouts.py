"""Forced layouts of small tries, so that every kind of table is met by small catalogues."""

import jax
import numpy as np

from kernels.trie import TrieCapacities
from kernels.trie.layout import LINE, MaskCapacities, RowCapacities

# Kind, first level and number of levels of each table of three levels.
LAYOUTS = {
    "rows": [("rows", 0, 3)],
    "masks": [("mask", 0, 1), ("mask", 1, 1), ("mask", 2, 1)],
    "mask_rows": [("mask", 0, 1), ("mask", 1, 1), ("rows", 2, 1)],
    "lists": [("rows", 0, 1), ("rows", 1, 1), ("rows", 2, 1)],
    "mixed": [("rows", 0, 1), ("mask", 1, 1), ("rows", 2, 1)],
    "mask_row_run": [("mask", 0, 1), ("rows", 1, 2)],
}


def layout(kinds, rows, codes, *, items=None, items_per_leaf=None, lines=None):
    """Returns capacities with room for any catalogue of `rows` SIDs with `codes` codes a level."""
    tables = []
    for kind, level, num_levels in kinds:
        if kind == "mask":
            span = -(-codes // LINE) * LINE
            edges = -(-rows // LINE) * LINE
            tables.append(MaskCapacities(level, 1 if level == 0 else rows, 0, span, edges))
        else:
            columns = [min(rows, codes ** (num_levels - place)) for place in range(num_levels)]
            bits = max((codes - 1).bit_length(), 1)
            # At worst every node leaves half a line and a row empty.
            room = lines or -(-2 * rows // LINE) + 1
            tables.append(RowCapacities(level, room, (bits,) * num_levels, tuple(columns)))
    return TrieCapacities(tuple(tables), items or rows, rows, items_per_leaf or rows)


# The numbers of prefixes that are looked up at once: few, as each is a program to compile.
_SIZES = (64, 4096, 1 << 16)


@jax.jit
def _nodes_of(trie, prefixes):
    return [trie.node_of(of_depth) for of_depth in prefixes]


def nodes_of(trie, *prefixes):
    """Returns the trie's node of each prefix; one array for each depth that is given."""
    prefixes = [np.asarray(of_depth, np.int32) for of_depth in prefixes]
    longest = max(len(of_depth) for of_depth in prefixes)
    size = next((size for size in _SIZES if size >= longest), _SIZES[-1])
    pieces = [
        jax.device_get(
            _nodes_of(
                trie,
                [
                    np.resize(p[i : i + size] if i < len(p) else p, (size, p.shape[1]))
                    for p in prefixes
                ],
            )
        )
        for i in range(0, longest, size)
    ]
    return [
        np.concatenate(of_depth)[: len(p)]
        for of_depth, p in zip(zip(*pieces, strict=True), prefixes, strict=True)
    ]
