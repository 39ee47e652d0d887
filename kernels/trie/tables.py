"""The two kinds of table of a trie, and how to read a node's children out of them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from kernels.trie.layout import BLOCK, CHUNKS, LINE, Field, MaskCapacities, RowCapacities


class Edges(NamedTuple):
    """The candidates of some nodes, sorted by token; between two of them may be gaps.

    Attributes:
        token: int32 `[..., C]`, 0 where there is no child.
        edge: int32 `[..., C]`, the child's place in its table; means nothing where there is none.
        valid: bool `[..., C]`, whether there is a child.
    """

    token: Int32[Array, "... C"]
    edge: Int32[Array, "... C"]
    valid: Bool[Array, "... C"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaskTable:
    """One level whose nodes have many children: a bit for every token. A pytree.

    Node `n` has the lines `n · blocks, …`. Line `b` of them speaks of the tokens `first_token +
    2048 b + 128 c + lane`: bit `c < 16` of a lane says whether that token is a child, so that 128
    neighbouring tokens are one shift of a line. The upper halves of lanes 0 and 1 hold the lower
    and upper half of the first child's edge. Edges are numbered in the order of the prefixes.

    Attributes:
        mask: int32 `[nodes · blocks, 128]`.
        below: int32 `[lines, 128]`: each edge's node in the next table; None where it is the edge.
        capacities: sizes; static.
    """

    mask: Int32[Array, "lines 128"]
    below: Int32[Array, "lines 128"] | None
    capacities: MaskCapacities = dataclasses.field(metadata={"static": True})

    def lines_of(self, node: Int32[Array, " ..."]) -> Int32[Array, "... blocks 128"]:
        """Returns the lines of nodes; those of no node hold no children."""
        sizes = self.capacities
        line = node[..., None] * sizes.blocks + jnp.arange(sizes.blocks, dtype=jnp.int32)
        known = (node >= 0) & (node < sizes.nodes)
        return jnp.where(known[..., None, None], take(self.mask, line), 0)

    def bits(self, node: Int32[Array, " ..."]) -> Bool[Array, "... blocks chunks 128"]:
        """Returns which tokens are children of nodes, as they lie: token by token, 128 a row."""
        return bits_of(self.lines_of(node), self.capacities.span)

    def edges(self, node: Int32[Array, " ..."], level: int) -> Edges:
        """Returns the candidates of nodes; column `c` is token `first_token + c`."""
        del level
        sizes = self.capacities
        lines = self.lines_of(node)
        valid = columns_of(lines, sizes.span)
        # Children before each: edges are numbered in the order of the tokens, without gaps.
        before = jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - valid
        token = sizes.first_token + jnp.arange(sizes.span, dtype=jnp.int32)
        edge = base_of(lines)[..., :1] + before
        return Edges(token=jnp.where(valid, token, 0), edge=edge, valid=valid)

    def edge_of(
        self, node: Int32[Array, " ..."], token: Int32[Array, " ..."]
    ) -> Int32[Array, " ..."]:
        """Returns the edges of children, given their nodes and tokens; no search, one line each."""
        sizes = self.capacities
        column = token - sizes.first_token
        line = take(self.mask, node * sizes.blocks + column // BLOCK)
        chunk = (column % BLOCK // LINE)[..., None]
        lane = jnp.arange(LINE, dtype=jnp.int32)
        # Tokens are ordered by chunk, then by lane. So the children before one are all bits of
        # earlier chunks, in every lane, and its own chunk's bit in the lanes before.
        earlier_chunks = jax.lax.population_count(line & ((1 << chunk) - 1))
        earlier_lanes = ((line >> chunk) & 1) * (lane < (column % LINE)[..., None])
        return base_of(line) + jnp.sum(earlier_chunks + earlier_lanes, axis=-1, dtype=jnp.int32)

    def has(self, node: Int32[Array, " ..."], token: Int32[Array, " ..."]) -> Bool[Array, " ..."]:
        """Returns whether tokens are children of nodes."""
        sizes = self.capacities
        column = token - sizes.first_token
        known = (node >= 0) & (node < sizes.nodes) & (column >= 0) & (column < sizes.span)
        line, lane = node * sizes.blocks + column // BLOCK, column % LINE
        word = self.mask.at[line, lane].get(mode="clip", wrap_negative_indices=False)
        return known & ((word >> (column % BLOCK // LINE)) & 1 != 0)

    def token_of(
        self, node: Int32[Array, " ..."], edge: Int32[Array, " ..."]
    ) -> Int32[Array, " ..."]:
        """Returns the tokens of children, given their nodes and edges, by bisection."""
        sizes = self.capacities
        low = jnp.zeros_like(edge)  # The last column before which no more edges stand than wanted.
        # Halved before its first use: it starts as half of the power of two that holds the span.
        step = 1 << (sizes.span - 1).bit_length()
        while step > 1:
            step //= 2
            middle = low + step
            before = self.edge_of(node, sizes.first_token + jnp.minimum(middle, sizes.span - 1))
            low = jnp.where((middle < sizes.span) & (before <= edge), middle, low)
        return sizes.first_token + low

    def first_edges(self) -> Int32[Array, " nodes"]:
        """Returns the edge of each node's first child; past the last node, how many there are."""
        return base_of(self.mask[:: self.capacities.blocks])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowTable:
    """Levels whose nodes have few children: the sorted prefixes, one a row. A pytree.

    A node is the run of rows that share its prefix, and its number is the place of the first. Rows
    below one node of the table's first depth stand in one line, or, where they are more than a
    line holds, start a line; gaps hold zeros. A child's edge is the place of its first row.

    Attributes:
        words: int32 `[lines, 128]` each: the codes and what differs from the row before; see
            `Field`.
        below: int32 `[lines, 128]`: each row's node in the next table; None in the last one.
        capacities: sizes; static.
    """

    words: tuple[Int32[Array, "lines 128"], ...]
    below: Int32[Array, "lines 128"] | None
    capacities: RowCapacities = dataclasses.field(metadata={"static": True})

    @property
    def lines_per_node(self) -> int:
        """The most lines that hold the rows of one node."""
        return -(-max(self.capacities.columns) // LINE)

    def field(self, level: int) -> Field:
        """Returns where the words hold `level`, which counts from the trie's root."""
        return self.capacities.fields[level - self.capacities.level]

    def edges(self, node: Int32[Array, " ..."], level: int) -> Edges:
        """Returns the candidates of nodes of depth `level`; column `c` is `c` rows further."""
        field = self.field(level)
        rows = self.rows_of(node, level)
        word = take(self.words[field.word].reshape(-1), rows.edge)
        # A row starts a child where it first differs at this very level; the node's first row
        # differs at an earlier one, and starts its first child all the same.
        starts = (word & ((1 << field.difference_bits) - 1)) == field.place + 1
        valid = rows.valid & (starts | (rows.edge == node[..., None]))
        return rows._replace(token=jnp.where(valid, rows.token, 0), valid=valid)

    def rows_of(self, node: Int32[Array, " ..."], level: int) -> Edges:
        """Returns all rows below nodes of depth `level`, those too that start no child."""
        sizes, field = self.capacities, self.field(level)
        columns = sizes.columns[level - sizes.level]
        place = jnp.arange(columns, dtype=jnp.int32)
        edge = node[..., None] + place
        word = take(self.words[field.word].reshape(-1), edge)
        valid = ((node >= 0) & (node < sizes.edges))[..., None]
        if columns > 1:
            difference = word & ((1 << field.difference_bits) - 1)
            # Behind the last row of a full table the last one would be read again.
            # The run ends before the first row that differs at a level before this one.
            ends = (place > 0) & ((difference <= field.place) | (edge >= sizes.edges))
            end = jnp.min(jnp.where(ends, place, columns), axis=-1, keepdims=True)
            valid = valid & (place < end)
        token = (word >> field.shift) & ((1 << field.bits) - 1)
        return Edges(token=token, edge=edge, valid=valid)

    def ends_at(self, row: Int32[Array, " ..."], level: int) -> Bool[Array, " ..."]:
        """Returns whether a node of depth `level` that comes as far as before `row` ends there."""
        field = self.field(level)
        word = take(self.words[field.word].reshape(-1), row)
        difference = word & ((1 << field.difference_bits) - 1)
        return (difference <= field.place) | (row >= self.capacities.edges)

    def token_at(self, edge: Int32[Array, " ..."], level: int) -> Int32[Array, " ..."]:
        """Returns the token of `level` at rows."""
        field = self.field(level)
        word = take(self.words[field.word].reshape(-1), edge)
        return (word >> field.shift) & ((1 << field.bits) - 1)

    def parent_of(self, edge: Int32[Array, " ..."], level: int) -> Int32[Array, " ..."]:
        """Returns the nodes of depth `level` whose children the rows `edge` start."""
        sizes, field = self.capacities, self.field(level)
        columns = sizes.columns[level - sizes.level]
        if columns == 1:
            return edge
        back = jnp.arange(columns, dtype=jnp.int32)
        word = take(self.words[field.word].reshape(-1), edge[..., None] - back)
        # Backwards to the nearest row that differs before this level: there its node begins.
        # `argmax` takes the first.
        starts = (word & ((1 << field.difference_bits) - 1)) <= field.place
        return edge - jax.lax.argmax(starts, starts.ndim - 1, jnp.int32)

    def differences(self) -> Int32[Array, " rows"]:
        """Returns the first level at which each row differs from the row before it.

        `level - 1` stands for any level before the table's first; it ends every node.
        """
        sizes = self.capacities
        found = jnp.full(sizes.edges, sizes.level - 1, jnp.int32)
        for index in range(sizes.num_levels):
            field = sizes.fields[index]
            difference = self.words[field.word].reshape(-1) & ((1 << field.difference_bits) - 1)
            found = jnp.where(difference == field.place + 1, sizes.level + index, found)
        return found


Table = MaskTable | RowTable


def bits_of(
    lines: Int32[Array, "... blocks 128"], span: int
) -> Bool[Array, "... blocks chunks 128"]:
    """Returns the bits of a mask's lines, token by token, 128 a row."""
    chunk = jnp.arange(min(CHUNKS, span // LINE), dtype=jnp.int32)[:, None]
    return ((lines[..., None, :] >> chunk) & 1) != 0


def columns_of(lines: Int32[Array, "... blocks 128"], span: int) -> Bool[Array, "... span"]:
    """Returns the bits of a mask's lines in one row."""
    bits = bits_of(lines, span)
    return bits.reshape(*bits.shape[:-3], -1)[..., :span]


def base_of(lines: Int32[Array, "... 128"]) -> Int32[Array, " ..."]:
    """Returns the edge of the first child of each line of a mask."""
    # Logical, as the highest bit is part of the number and not a sign.
    upper = jax.lax.shift_right_logical(lines[..., :2], jnp.int32(16))
    return upper[..., 0] | (upper[..., 1] << 16)


def take(array: Array, index: Array) -> Array:
    """Returns `array[index]`, clipped at both ends; negative indices do not wrap around."""
    return array.at[index].get(mode="clip", wrap_negative_indices=False)
