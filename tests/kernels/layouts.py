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


_node_of = jax.jit(lambda trie, prefixes: trie.node_of(prefixes))


def nodes_of(trie, prefixes):
    """Returns the trie's node of each prefix of one depth, in calls of few different sizes."""
    prefixes = np.asarray(prefixes, np.int32)
    size = min(1 << (len(prefixes) - 1).bit_length(), 1 << 16)
    pieces = [
        np.asarray(_node_of(trie, np.resize(prefixes[i : i + size], (size, prefixes.shape[1]))))
        for i in range(0, len(prefixes), size)
    ]
    return np.concatenate(pieces)[: len(prefixes)]
