"""Which nodes of a trie still hold an allowed item, for one request, exactly."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32

from kernels.indices import int32_indices
from kernels.trie_build import DEAD_NODE

if TYPE_CHECKING:
    from kernels.trie import Trie

# Sorts behind every node and equals none.
_NO_NODE = np.iinfo(np.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Live:
    """The live nodes of each depth: in `nodes`, and not in `emptied`. A pytree.

    Attributes:
        nodes: for each level `l`, bool `[nodes]` or `[B, nodes]` over the nodes of depth `l + 1`;
            None where all are live.
        emptied: for each level `l`, int32 `[B, E]`, sorted: nodes of depth `l + 1` that are live
            in `nodes` but hold nothing else than excluded items; None where no user has any.
    """

    nodes: tuple[Bool[Array, "*B nodes"], ...] | None
    emptied: tuple[Int32[Array, "B E"], ...] | None

    def at(self, level: int, node: Int32[Array, "B ..."]) -> Bool[Array, "B ..."]:
        """Returns which nodes of depth `level + 1` are live; `DEAD_NODE` is not.

        Args:
            level: static.
            node: int32 `[B, ...]`.
        """
        live = node != DEAD_NODE
        if self.nodes is not None:
            live &= _take(self.nodes[level], node)
        if self.emptied is not None:
            live &= ~_contains(self.emptied[level], node)
        return live

    def at_children(self, level: int, node: Int32[Array, "B M C"]) -> Bool[Array, "B M C"]:
        """Returns what `at` does, faster, for `trie.children(…, level).node`.

        Children are neighbours, so an emptied node's place among them is a subtraction. That is
        `E` operations a row; where rows are shorter, looking up each child is cheaper.
        """
        if self.emptied is None or node.shape[-1] <= self.emptied[level].shape[-1]:
            return self.at(level, node)
        live = Live(nodes=self.nodes, emptied=None).at(level, node)
        place = self.emptied[level][:, None, :] - node[:, :, :1]
        # What is emptied elsewhere falls outside the row and is dropped. What falls behind a row's
        # last child, or into a row without any, meets only what is not live anyway.
        place = jnp.where(place < 0, node.shape[-1], place)
        b, m = jnp.indices(node.shape[:2])
        return live.at[b[..., None], m[..., None], place].set(False, mode="drop")


def live(trie: Trie, allowed: Bool[Array, "*B items"]) -> Live:
    """Returns which nodes hold an allowed item; see `Trie.live`."""
    return Live(nodes=_count_live(trie, _checked_allowed(allowed))[0], emptied=None)


def live_excluding(
    trie: Trie, excluded: Int[Array, "B E"], allowed: Bool[Array, "*B items"] | None = None
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
        return Live(nodes=None, emptied=None) if allowed is None else live(trie, allowed)
    return _live_excluding(trie, excluded, allowed)


@jax.jit
def _live_excluding(trie: Trie, excluded: Array, allowed: Array | None) -> Live:
    nodes, counts = (None, None) if allowed is None else _count_live(trie, allowed)

    def num_live_below(depth: int, node: Array) -> Array:
        if counts is not None:
            return _take(counts[depth], node)
        start = (*trie.child_start, trie.item_start)[depth]
        return start.at[node + 1].get(mode="clip") - start.at[node].get(mode="clip")

    # Excluded items that are in the trie, allowed, and counted once.
    item = jnp.sort(excluded, axis=1)
    first, _ = _runs(item)
    leaf = trie.leaf_of(item)
    counted = first & (leaf != DEAD_NODE)
    if allowed is not None:
        counted &= (item < allowed.shape[-1]) & _take(allowed, jnp.maximum(item, 0))
    node = jnp.sort(jnp.where(counted, leaf, _NO_NODE), axis=1)

    # From the leaves upwards: a node is emptied when all that was live below it is gone. `node`
    # lists, sorted and once for each thing below that is gone, the nodes that lose it.
    emptied = []
    for level in reversed(range(trie.num_levels)):
        first, length = _runs(node)
        gone = first & (node != _NO_NODE) & (length == num_live_below(level + 1, node))
        node = jnp.sort(jnp.where(gone, node, _NO_NODE), axis=1)
        emptied.append(node)
        above = trie.parent[level].at[node].get(mode="clip")
        node = jnp.where(node == _NO_NODE, _NO_NODE, above)
    return Live(nodes=nodes, emptied=tuple(reversed(emptied)))


@jax.jit
def _count_live(trie: Trie, allowed: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Returns the live nodes of each level and what is live below each node of each depth.

    The second counts, for depths `0 … L`, a node's live children, or at depth `L` a leaf's allowed
    items.
    """
    num_items = trie.item_leaf.size
    allowed = allowed[..., :num_items]
    missing = num_items - allowed.shape[-1]
    allowed = jnp.pad(allowed, [(0, 0)] * (allowed.ndim - 1) + [(0, missing)])
    allowed &= trie.item_leaf != DEAD_NODE
    counts = [_add_up(allowed, trie.item_leaf, trie.num_nodes(trie.num_levels))]
    nodes = []
    for level in reversed(range(trie.num_levels)):
        nodes.append(counts[-1] > 0)
        counts.append(_add_up(nodes[-1], trie.parent[level], trie.num_nodes(level)))
    return tuple(reversed(nodes)), tuple(reversed(counts))


def _add_up(counted: Array, above: Array, size: int) -> Array:
    """Returns how many of `counted [*B, n]` lie below each of `size` nodes, int32 `[*B, size]`."""
    counts = jnp.zeros((*counted.shape[:-1], size), jnp.int32)
    # What is not counted may carry any index, DEAD_NODE too, which would wrap around: it adds 0.
    return counts.at[..., above].add(counted.astype(jnp.int32))


def _checked_allowed(allowed: Array) -> Array:
    allowed = jnp.asarray(allowed)
    if allowed.ndim not in (1, 2) or allowed.dtype != jnp.bool_ or not allowed.shape[-1]:
        raise ValueError(
            f"allowed: shape {allowed.shape} of {allowed.dtype}; it must be bool [items] or "
            "[B, items]"
        )
    return allowed


def _take(table: Array, index: Array) -> Array:
    """Returns `table[index]`, or `table[b, index[b]]` where there is one table a user."""
    if table.ndim == 1:
        return table.at[index].get(mode="clip")
    return jax.vmap(lambda row, at: row.at[at].get(mode="clip"))(table, index)


def _runs(values: Array) -> tuple[Array, Array]:
    """Returns where runs of equal values start in sorted rows, and each entry's run length."""
    left = jax.vmap(lambda row: jnp.searchsorted(row, row, side="left"))(values)
    right = jax.vmap(lambda row: jnp.searchsorted(row, row, side="right"))(values)
    return left == jnp.arange(values.shape[1]), right - left


def _contains(rows: Array, values: Array) -> Array:
    """Returns whether each of `values [B, ...]` is in its sorted row of `rows [B, E]`."""
    place = jax.vmap(lambda row, value: jnp.searchsorted(row, value))(rows, values)
    return _take(rows, place) == values
