"""Which nodes of a trie still hold an allowed item, for one request, exactly."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int8, Int32

from kernels.indices import int32_indices
from kernels.trie import digest as trie_digest
from kernels.trie.build import DEAD_NODE
from kernels.trie.layout import BLOCK, CHUNKS, LINE, TrieCapacities
from kernels.trie.tables import MaskTable, RowTable, Table, columns_of, take

# Sorts behind every node and equals none.
_NO_NODE = np.iinfo(np.int32).max


class _Tree(Protocol):
    """What is read of a `Trie`, which imports this file and not the other way round."""

    @property
    def tables(self) -> tuple[Table, ...]: ...
    @property
    def item_start(self) -> Array: ...
    @property
    def item(self) -> Array: ...
    @property
    def item_leaf(self) -> Array: ...
    @property
    def digest(self) -> Array: ...
    @property
    def capacities(self) -> TrieCapacities: ...
    def max_children(self, level: int) -> int: ...
    def table_at(self, level: int) -> Table: ...
    def leaf_of(self, item: Array) -> Array: ...


class Emptied(NamedTuple):
    """Children of one level that hold nothing but excluded items.

    Attributes:
        node: int32 `[B, E]`, their parents; a number that no node has where there is nothing.
        column: int32 `[B, E]`, where they stand among the columns of their parents' children.
    """

    node: Int32[Array, "B E"]
    column: Int32[Array, "B E"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Live:
    """The live children of each node: in `allowed`, and not in `emptied`. A pytree.

    It means something to tries of the digest that it was made by, and to no other: beside another
    trie it is a `ValueError` where both digests are at hand, and marks nothing live where they
    are not, as under `jax.jit`, so that a search ends in dead beams.

    Attributes:
        allowed: for each table: a mask table's mask, int32 `[*B, lines, 128]`, with the bits of
            live children alone; for a row table, int8 `[*B, rows]`, the greatest depth at which
            the node that starts at a row is live. None where all are.
        emptied: for each level, children that are live in `allowed` but hold nothing else than
            excluded items; None where no user has any.
        digest: int32 `[4]`, or `[B, 4]` where users differ, so that users can be taken out of a
            filter or put together: of the trie that it was made by.
        capacities: of that trie; static.
    """

    allowed: tuple[Int32[Array, "*B lines 128"] | Int8[Array, "*B rows"], ...] | None
    emptied: tuple[Emptied, ...] | None
    digest: Int32[Array, "*B words"]
    capacities: TrieCapacities = dataclasses.field(metadata={"static": True})

    def at_children(
        self, trie: _Tree, level: int, node: Int32[Array, "B M"]
    ) -> Bool[Array, "B M C"]:
        """Returns which columns of the nodes' children are live; see `Trie.live_children`."""
        columns = trie.max_children(level)
        table = trie.table_at(level)
        if self.allowed is None:
            live = jnp.ones((*node.shape, columns), bool)
        else:
            allowed = self.allowed[trie.capacities.table_index(level)]
            if isinstance(table, MaskTable):
                sizes = table.capacities
                block = jnp.arange(sizes.blocks, dtype=jnp.int32)
                lines = _take(allowed, node[..., None] * sizes.blocks + block, entry_axes=1)
                live = columns_of(lines, columns)
            else:
                row = node[..., None] + jnp.arange(columns, dtype=jnp.int32)
                live = _take(allowed, row) > level
        live &= trie_digest.equal(self.digest, trie.digest)[..., None, None]
        if self.emptied is None:
            return live
        emptied = self.emptied[level]
        # What is emptied below another node falls outside the row and is dropped.
        below = emptied.node[:, None, :] == node[:, :, None]
        place = jnp.where(below, emptied.column[:, None, :], columns)
        b, m = jnp.indices(node.shape, dtype=jnp.int32)
        return live.at[b[..., None], m[..., None], place].set(False, mode="drop")


def check(live: Live, trie: _Tree, batch: int) -> None:
    """Raises a `ValueError` unless `live` was made for `batch` users by a trie like this one.

    Digests are compared where both are at hand.
    """
    users = [*live.digest.shape[:-1], *(emptied.node.shape[0] for emptied in live.emptied or ())]
    for allowed, table in zip(live.allowed or (), trie.tables, strict=False):
        entry_axes = 1 if isinstance(table, MaskTable) else 0
        users += allowed.shape[: allowed.ndim - 1 - entry_axes]
    if live.capacities != trie.capacities or any(number != batch for number in users):
        raise ValueError(f"live: made for another trie or for another batch than B={batch}")
    trie_digest.check("live", live.digest, trie.digest)


def live(trie: _Tree, allowed: Bool[Array, "*B items"]) -> Live:
    """Returns which nodes hold an allowed item; see `Trie.live`."""
    allowed = _checked_allowed(allowed)
    digest = trie.digest
    if allowed.ndim == 2:
        digest = trie_digest.by_user(digest, allowed.shape[0])
    return Live(_allowed(trie, allowed)[0], None, digest, trie.capacities)


def live_excluding(
    trie: _Tree, excluded: Int[Array, "B E"], allowed: Bool[Array, "*B items"] | None = None
) -> Live:
    """Returns which nodes hold an allowed item that is not excluded; see `Trie.live_excluding`."""
    excluded = jnp.asarray(int32_indices("excluded", excluded))
    if excluded.ndim != 2:
        raise ValueError(f"excluded: shape {excluded.shape}; it must be integers [B, E]")
    if allowed is not None:
        allowed = _checked_allowed(allowed)
        if allowed.ndim == 2 and allowed.shape[0] != excluded.shape[0]:
            raise ValueError(f"allowed: {allowed.shape[0]} users, excluded has {excluded.shape[0]}")
    if excluded.shape[1] == 0:
        if allowed is not None:
            return live(trie, allowed)
        digest = trie_digest.by_user(trie.digest, excluded.shape[0])
        return Live(None, None, digest, trie.capacities)
    return _live_excluding(trie, excluded, allowed)


@jax.jit
def _live_excluding(trie: _Tree, excluded: Array, allowed: Array | None) -> Live:
    live_tables, before = (None, None) if allowed is None else _allowed(trie, allowed)

    # Excluded items that are in the trie, allowed, and counted once.
    # Sorted, equal items are neighbours: the first of each run counts.
    item = jnp.sort(excluded, axis=1)
    first, _ = _runs(item)
    leaf = trie.leaf_of(item)
    counted = first & (leaf != DEAD_NODE)
    if allowed is not None:
        counted &= (item < allowed.shape[-1]) & _take(allowed, jnp.maximum(item, 0))
    leaf = jnp.sort(jnp.where(counted, leaf, _NO_NODE), axis=1)
    below = trie.item_start if before is None else before.at[..., trie.item_start].get(mode="clip")
    edge = _gone(leaf, _take(below, leaf + 1) - _take(below, leaf))

    # From the leaves upwards: a node is emptied when all that was live below it is gone. `edge`
    # lists, sorted and once each, what is gone at the depth where a table ends.
    emptied: list[Emptied] = []
    for index in reversed(range(len(trie.tables))):
        table = trie.tables[index]
        live_here = None if live_tables is None else live_tables[index]
        if isinstance(table, MaskTable):
            levels, edge = _empty_mask(table, edge, live_here)
        else:
            levels, edge = _empty_rows(table, edge, live_here)
        emptied += levels
        if index > 0:
            above = trie.tables[index - 1].below
            if above is not None:
                # The first edge that leads to the node; the gaps behind it repeat it.
                found = jnp.searchsorted(above.reshape(-1), edge).astype(jnp.int32)
                edge = jnp.where(edge == _NO_NODE, _NO_NODE, found)
    return Live(
        allowed=live_tables,
        emptied=tuple(reversed(emptied)),
        digest=trie_digest.by_user(trie.digest, excluded.shape[0]),
        capacities=trie.capacities,
    )


def _gone(node: Array, num_live: Array) -> Array:
    """Returns the nodes that are listed as often as something live is below them, sorted."""
    first, length = _runs(node)
    gone = first & (node != _NO_NODE) & (length == num_live)
    return jnp.sort(jnp.where(gone, node, _NO_NODE), axis=1)


def _empty_mask(table: MaskTable, edge: Array, live: Array | None) -> tuple[list[Emptied], Array]:
    """Returns the children that are gone, and the nodes that have none left."""
    sizes = table.capacities
    firsts = table.first_edges()
    # The last node whose first edge is not behind this one: its parent.
    node = jnp.searchsorted(firsts, edge, side="right").astype(jnp.int32) - 1
    # A table of all edges' tokens, where it is small; else each is searched for.
    if sizes.nodes * sizes.span <= edge.size * LINE:
        child = table.edges(jnp.arange(sizes.nodes, dtype=jnp.int32), sizes.level)
        place = jnp.where(child.valid, child.edge, sizes.edges)
        column = jnp.broadcast_to(jnp.arange(sizes.span, dtype=jnp.int32), place.shape)
        columns = jnp.zeros(sizes.edges, jnp.int32).at[place].set(column, mode="drop")
        column = take(columns, edge)
    else:
        column = table.token_of(node, edge) - sizes.first_token
    there = edge != _NO_NODE
    listed = Emptied(jnp.where(there, node, _NO_NODE), jnp.where(there, column, 0))
    mask = table.mask if live is None else live
    line = node[..., None] * sizes.blocks + jnp.arange(sizes.blocks, dtype=jnp.int32)
    lines = _take(mask, line, entry_axes=1)
    children = jax.lax.population_count(lines & ((1 << CHUNKS) - 1))
    return [listed], _gone(listed.node, jnp.sum(children, axis=(-2, -1), dtype=jnp.int32))


def _empty_rows(table: RowTable, row: Array, live: Array | None) -> tuple[list[Emptied], Array]:
    """Returns the children that are gone, the last level's first, and the nodes with none left.

    A node is gone when all its live rows are. Where all rows are live, that is when the row behind
    as many as are gone is no longer its own.
    """
    sizes = table.capacities
    there = row != _NO_NODE
    child, gone = row, there
    emptied: list[Emptied] = []
    for level in reversed(range(sizes.level, sizes.level + sizes.num_levels)):
        node = jnp.where(there, table.parent_of(row, level), _NO_NODE)
        emptied.append(Emptied(jnp.where(gone, node, _NO_NODE), jnp.where(gone, child - node, 0)))
        _, length = _runs(node)
        if live is None:
            gone = there & table.ends_at(node + length, level)
        else:
            rows = table.rows_of(node, level)
            leaf = rows.valid & (_take(live, rows.edge) == sizes.level + sizes.num_levels)
            gone = there & (length == jnp.sum(leaf, axis=-1, dtype=jnp.int32))
        child = node
    first, _ = _runs(child)
    return emptied, jnp.sort(jnp.where(first & gone, child, _NO_NODE), axis=1)


@jax.jit
def _allowed(trie: _Tree, allowed: Array) -> tuple[tuple[Array, ...], Array]:
    """Returns `Live.allowed`, and how many allowed items stand before each row of `trie.item`."""
    num_items = trie.item_leaf.size
    allowed = allowed[..., :num_items]
    missing = num_items - allowed.shape[-1]
    allowed = jnp.pad(allowed, [(0, 0)] * (allowed.ndim - 1) + [(0, missing)])
    by_row = allowed.at[..., trie.item].get(mode="clip") & (trie.item >= 0)
    # How many allowed items stand before each row: a leaf, whose items are neighbours, is live
    # where its two ends differ.
    counts = jnp.cumsum(by_row, axis=-1, dtype=jnp.int32)
    before = jnp.pad(counts, [(0, 0)] * (allowed.ndim - 1) + [(1, 0)])
    at_start = before.at[..., trie.item_start].get(mode="clip")
    live_edge = at_start[..., 1:] > at_start[..., :-1]

    found: list[Array] = []
    for index in reversed(range(len(trie.tables))):
        table = trie.tables[index]
        if isinstance(table, MaskTable):
            mask = _live_mask(table, live_edge)
            found.append(mask)
            lines = mask.reshape(*mask.shape[:-2], table.capacities.nodes, -1)
            # The lower halves alone are bits of children.
            live_node = jnp.any((lines & (1 << CHUNKS) - 1) != 0, axis=-1)
        else:
            depth = _live_depth(table, live_edge)
            found.append(depth)
            live_node = depth >= table.capacities.level
        if index > 0:
            above = trie.tables[index - 1]
            if above.below is None:
                # Capacities of edges and of the nodes below may differ in their padding.
                missing = max(above.capacities.edges - live_node.shape[-1], 0)
                widths = [(0, 0)] * (live_node.ndim - 1) + [(0, missing)]
                live_edge = jnp.pad(live_node, widths)[..., : above.capacities.edges]
            else:
                live_edge = live_node.at[..., above.below.reshape(-1)].get(mode="clip")
    return tuple(reversed(found)), before


def _live_mask(table: MaskTable, live_edge: Array) -> Array:
    """Returns the mask without the bits of children that are not live, upper halves zero."""
    sizes = table.capacities
    child = table.edges(jnp.arange(sizes.nodes, dtype=jnp.int32), sizes.level)
    bit = child.valid & live_edge.at[..., child.edge].get(mode="clip")
    width = sizes.blocks * BLOCK
    bit = jnp.pad(bit, [(0, 0)] * (bit.ndim - 1) + [(0, width - sizes.span)])
    bit = bit.reshape(*bit.shape[:-2], -1, CHUNKS, LINE)
    chunk = jnp.arange(CHUNKS, dtype=jnp.int32)[:, None]
    return jnp.sum(bit.astype(jnp.int32) << chunk, axis=-2, dtype=jnp.int32)


def _live_depth(table: RowTable, live_row: Array) -> Array:
    """Returns the greatest depth at which the node that starts at each row is live, int8.

    A row shares with a later one as many levels as the smallest difference between them says, so
    the depth is the largest such number over the live rows from it on. Twice as many rows are
    looked at each time, up to the longest node.
    """
    sizes = table.capacities
    nowhere = jnp.int8(-1)
    depth = jnp.where(live_row, jnp.int8(sizes.level + sizes.num_levels), nowhere)
    # What the next rows share with this one: the next one's difference from it.
    # A row that differs at level l shares l levels with the one before.
    shared = jnp.append(table.differences()[1:], sizes.level - 1).astype(jnp.int8)

    def later(values: Array, by: int) -> Array:
        fill = jnp.full((*values.shape[:-1], by), nowhere)
        return jnp.concatenate([values[..., by:], fill], axis=-1)

    step = 1
    while step < min(max(sizes.columns), sizes.edges):
        depth = jnp.maximum(depth, jnp.minimum(shared, later(depth, step)))
        shared = jnp.minimum(shared, later(shared, step))
        step *= 2
    return depth


def _checked_allowed(allowed: Array) -> Array:
    allowed = jnp.asarray(allowed)
    if allowed.ndim not in (1, 2) or allowed.dtype != jnp.bool_ or not allowed.shape[-1]:
        raise ValueError(
            f"allowed: shape {allowed.shape} of {allowed.dtype}; it must be bool [items] or "
            "[B, items]"
        )
    return allowed


def _take(table: Array, index: Array, entry_axes: int = 0) -> Array:
    """Returns `table[index]`, or `table[b, index[b]]` where there is one table a user.

    Args:
        table: `[n, *entry]` or `[B, n, *entry]`.
        index: `[B, ...]`, or of any shape where there is one table for all.
        entry_axes: axes of an entry.
    """
    if table.ndim == 1 + entry_axes:
        return take(table, index)
    return jax.vmap(take)(table, index)


def _runs(values: Array) -> tuple[Array, Array]:
    """Returns where runs of equal values start in sorted rows, and each entry's run length."""
    left = jax.vmap(lambda row: jnp.searchsorted(row, row, side="left"))(values)
    right = jax.vmap(lambda row: jnp.searchsorted(row, row, side="right"))(values)
    return left == jnp.arange(values.shape[1], dtype=jnp.int32), right - left
