"""How a trie lies on the device: which tables it has, and where a table's words hold what.

A trie is a sequence of tables from the root to the leaves, each an int32 array of lines of 128,
because a line is what one DMA of a TPU brings and what its registers are wide. A level whose nodes
have many children is held as bits over the tokens (`MaskCapacities`); where nodes have few, the
sorted prefixes themselves are the trie, and a node is a run of rows (`RowCapacities`).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

LINE = 128
"""int32 values a line; rows below one node of few stand in one line."""

CHUNKS = 16
"""Chunks of `LINE` tokens in a line of a mask: one bit each of the lower half of a word."""

BLOCK = LINE * CHUNKS
"""Tokens that a line of a mask speaks of."""

DIGEST_WORDS = 4
"""int32 values that tell catalogues apart: 128 bits of a hash."""

_WORD_BITS = 31  # The sign stays 0.
# A word holds at least one level: two bits say how a row differs (before it, at it, later).
MAX_CODE_BITS = _WORD_BITS - 2


class Field(NamedTuple):
    """Where a row table's words hold a level.

    Attributes:
        word: which of the table's words.
        difference_bits: the low bits of the word that say how a row differs from the row before:
            0 at a level before the word's first, `j + 1` first at the word's level `j`, more at a
            later level than the word's.
        place: `j`, the level's place among the word's levels.
        shift: where its code starts.
        bits: how many bits its code has.
    """

    word: int
    difference_bits: int
    place: int
    shift: int
    bits: int


@dataclasses.dataclass(frozen=True)
class MaskCapacities:
    """The padded sizes of a `MaskTable`: one level whose nodes have many children.

    Attributes:
        level: the level.
        nodes: nodes of depth `level`.
        first_token: a multiple of 128; no token is smaller.
        span: a multiple of 128; no token is `first_token + span` or larger.
        edges: nodes of depth `level + 1`.
    """

    level: int
    nodes: int
    first_token: int
    span: int
    edges: int

    num_levels = 1

    def __post_init__(self):
        for field in ("first_token", "span", "edges"):
            if getattr(self, field) % LINE or getattr(self, field) < (field != "first_token"):
                raise ValueError(
                    f"MaskCapacities.{field}: {getattr(self, field)}; it must be a multiple of "
                    f"{LINE}"
                )

    @property
    def blocks(self) -> int:
        """Lines a node."""
        return -(-self.span // BLOCK)

    @property
    def columns(self) -> tuple[int, ...]:
        """Candidates a node, for each of its levels."""
        return (self.span,)


@dataclasses.dataclass(frozen=True)
class RowCapacities:
    """The padded sizes of a `RowTable`: one or more levels whose nodes have few children.

    Attributes:
        level: the first level.
        lines: lines of 128 rows.
        bits: bits of a code, for each level.
        columns: the most rows below a node of depth `level + i`, for each level `i`: candidates
            a node. More than 128 only in a table of one level.
    """

    level: int
    lines: int
    bits: tuple[int, ...]
    columns: tuple[int, ...]

    def __post_init__(self):
        if len(self.columns) != len(self.bits) or not self.bits:
            raise ValueError(
                f"RowCapacities.columns: {self.columns}; there must be one for each of the levels "
                f"of bits {self.bits}"
            )
        if not all(1 <= bits <= MAX_CODE_BITS for bits in self.bits):
            raise ValueError(f"RowCapacities.bits: {self.bits}; each must be 1 to {MAX_CODE_BITS}")
        if self.num_levels > 1 and max(self.columns) > LINE:
            raise ValueError(
                f"RowCapacities.columns: {self.columns}; more than {LINE} rows below a node need a "
                "table of one level"
            )

    @property
    def num_levels(self) -> int:
        """Levels of the table."""
        return len(self.bits)

    @property
    def edges(self) -> int:
        """Rows, padding included."""
        return self.lines * LINE

    @property
    def fields(self) -> tuple[Field, ...]:
        """Where each level stands; as many levels share a word as fit."""
        fields: list[Field] = []
        first = word = 0
        while first < self.num_levels:
            # As many levels as leave room for a difference of `count + 2` values: before the word's
            # first level, at one of its levels, or later.
            count = 1
            while first + count < self.num_levels and (
                (count + 2).bit_length() + sum(self.bits[first : first + count + 1]) <= _WORD_BITS
            ):
                count += 1
            difference_bits = (count + 1).bit_length()
            shift = difference_bits
            for place in range(count):
                bits = self.bits[first + place]
                fields.append(Field(word, difference_bits, place, shift, bits))
                shift += bits
            first += count
            word += 1
        return tuple(fields)

    @property
    def num_words(self) -> int:
        """Words a row."""
        return self.fields[-1].word + 1


@dataclasses.dataclass(frozen=True)
class TrieCapacities:
    """The padded sizes of a trie's arrays; all that a compiled program knows of a catalogue.

    Take another trie's (`trie.capacities`) to swap catalogues without compiling anew.

    Attributes:
        tables: the tables' sizes, from the root to the leaves.
        items: item ids, `0 … items-1`.
        rows: items in all leaves together.
        items_per_leaf: most items of one leaf.
        codebook_sizes: codes a level, where the caller gave them.
    """

    tables: tuple[MaskCapacities | RowCapacities, ...]
    items: int
    rows: int
    items_per_leaf: int
    codebook_sizes: tuple[int, ...] | None = None

    def __post_init__(self):
        level = 0
        for index, table in enumerate(self.tables):
            if table.level != level:
                raise ValueError(
                    f"TrieCapacities.tables[{index}]: starts at level {table.level}; it must go on "
                    f"at level {level}"
                )
            level += table.num_levels
        if not level:
            raise ValueError("TrieCapacities.tables: empty; a trie has at least one level")

    @property
    def num_levels(self) -> int:
        """`L`."""
        return self.tables[-1].level + self.tables[-1].num_levels

    def table_index(self, level: int) -> int:
        """Returns which table holds `level`."""
        for index, table in enumerate(self.tables):
            if level < table.level + table.num_levels:
                return index
        raise ValueError(f"level: {level}; the trie's levels are 0 to {self.num_levels - 1}")


def round_up(size: int) -> int:
    """Returns the next of 1, 2, 4, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, …: a quarter octave."""
    # The power of two at or above; from the one before, four equal steps lead to it.
    octave = 1 << (size - 1).bit_length() if size > 1 else 1
    if octave <= 8:
        return octave
    step = octave // 8
    return -(-size // step) * step
