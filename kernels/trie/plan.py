"""Which tables a catalogue's trie gets, how large they are, and where in them its nodes stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kernels.trie.layout import LINE, MaskCapacities, RowCapacities, round_up

# A mask pays where nodes have more children than a line has lanes, unless even the fullest node's
# bits are mostly 0, or it is large beside the list of the children.
_MOST_BITS_A_CHILD = 8
_MASK_FACTOR = 2
_SMALL_MASK_BYTES = 1 << 16
# Rows of a node stand in one line if the gaps that this makes stay below this share.
_MAX_GAPS = 0.25


class Catalogue(NamedTuple):
    """Sorted distinct SIDs.

    Attributes:
        codes: for each level, int32 `[leaves]`.
        difference: int8 `[leaves]`: the first level where a row differs from the row before;
            -1 for the first row.
    """

    codes: tuple[np.ndarray, ...]
    difference: np.ndarray

    @property
    def num_levels(self) -> int:
        """`L`."""
        return len(self.codes)

    def starts(self, depth: int) -> np.ndarray:
        """Returns the first row of each node of `depth`."""
        if depth == 0:
            return np.zeros(1, np.int64)
        # Every row is a distinct SID, so each is a leaf.
        if depth == self.num_levels:
            return np.arange(self.difference.size)
        return np.flatnonzero(self.difference < depth)


def plan(
    catalogue: Catalogue,
    codebook_sizes: tuple[int, ...] | None = None,
    kinds: Sequence[tuple[str, int]] | None = None,
) -> tuple[MaskCapacities | RowCapacities, ...]:
    """Returns the tables for a catalogue, sizes rounded up.

    From the first depth on whose nodes all have at most a line of SIDs below them, the SIDs
    themselves are the last table. Each level above has a table of its own: a mask where nodes have
    many children, unless it would be larger than the list of its prefixes by far.

    Args:
        catalogue: the SIDs.
        codebook_sizes: codes a level, where they are known.
        kinds: `("mask" or "rows", first level)` of each table instead, to try another layout.
    """
    num_levels = catalogue.num_levels
    if kinds is None:
        last = next(depth for depth in range(num_levels + 1) if _fits_lines(catalogue, depth))
        kinds = [(_kind(catalogue, level, codebook_sizes), level) for level in range(last)]
        if last < num_levels:
            kinds = [*kinds, ("rows", last)]
    ends = [level for _, level in kinds[1:]] + [num_levels]
    return tuple(
        _mask_capacities(catalogue, level, codebook_sizes)
        if kind == "mask"
        else _row_capacities(catalogue, level, end, codebook_sizes)
        for (kind, level), end in zip(kinds, ends, strict=True)
    )


def _fits_lines(catalogue: Catalogue, depth: int) -> bool:
    """Returns whether the SIDs below every node of `depth` fit a line without wide gaps."""
    if depth == catalogue.num_levels:
        return True
    sizes = np.diff(catalogue.starts(depth), append=catalogue.difference.size)
    if sizes.max() > LINE:
        return False
    _, lines = packed(sizes)
    return lines * LINE <= max((1 + _MAX_GAPS) * catalogue.difference.size, LINE)


def _kind(catalogue: Catalogue, level: int, codebook_sizes: tuple[int, ...] | None) -> str:
    starts, below = catalogue.starts(level), catalogue.starts(level + 1)
    most = int(np.diff(np.searchsorted(below, starts), append=below.size).max())
    mask = _mask_capacities(catalogue, level, codebook_sizes)
    # A row table reads as many rows as the fullest node has, and a mask as many bits as the span:
    # few children in a wide span are faster listed.
    if most <= LINE or mask.span > _MOST_BITS_A_CHILD * most:
        return "rows"
    mask_bytes = 4 * LINE * mask.nodes * mask.blocks
    small = mask_bytes <= max(_MASK_FACTOR * 4 * below.size, _SMALL_MASK_BYTES)
    return "mask" if small else "rows"


def _mask_capacities(
    catalogue: Catalogue, level: int, codebook_sizes: tuple[int, ...] | None
) -> MaskCapacities:
    if codebook_sizes is None:
        codes = catalogue.codes[level]
        first, end = int(codes.min()) // LINE * LINE, int(codes.max()) + 1
        if end - first > LINE:  # As a codebook's size would be, so that catalogues agree.
            end = first + round_up(end - first)
    else:
        first, end = 0, codebook_sizes[level]
    return MaskCapacities(
        level=level,
        nodes=1 if level == 0 else round_up(catalogue.starts(level).size),
        first_token=first,
        # Whole chunks of 128 tokens, each a bit of a line.
        span=-(-(end - first) // LINE) * LINE,
        edges=-(-round_up(catalogue.starts(level + 1).size) // LINE) * LINE,
    )


def _row_capacities(
    catalogue: Catalogue, level: int, end: int, codebook_sizes: tuple[int, ...] | None
) -> RowCapacities:
    rows = catalogue.starts(end)
    columns, lines = [], 0
    for depth in range(level, end):
        sizes = np.diff(np.searchsorted(rows, catalogue.starts(depth)), append=rows.size)
        columns.append(round_up(int(sizes.max())))
        if depth == level:
            lines = packed(sizes)[1]
    if codebook_sizes is None:
        largest = [int(codes.max()) for codes in catalogue.codes[level:end]]
    else:
        largest = [size - 1 for size in codebook_sizes[level:end]]
    bits = tuple(max(code.bit_length(), 1) for code in largest)
    return RowCapacities(level, round_up(lines), bits, tuple(columns))


def packed(sizes: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns where the rows of each node start when none crosses lines without need, and lines.

    Nodes follow each other in order; one that does not fit what is left of a line starts the next,
    and one that is longer than a line starts a line and ends in another, which goes on.
    """
    # Where each node's rows would start if there were no gaps.
    ends = np.concatenate([[0], np.cumsum(sizes)])
    room = np.maximum(-(-sizes // LINE) * LINE, LINE)
    # For each node: the node after the last that fits if it starts a line.
    following = np.searchsorted(ends, ends[:-1] + room, side="right") - 1
    # The nodes that start a line, each found from the one before.
    firsts = [0]
    chain = following.tolist()
    while chain[firsts[-1]] < len(chain):
        firsts.append(chain[firsts[-1]])
    first = np.array(firsts)
    lines = -(-np.diff(ends[first], append=ends[-1]) // LINE)
    line = np.concatenate([[0], np.cumsum(lines)])
    moved = line[:-1] * LINE - ends[first]
    return ends[:-1] + np.repeat(moved, np.diff(first, append=sizes.size)), int(line[-1])
