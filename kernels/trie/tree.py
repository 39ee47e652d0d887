"""The trie of a catalogue's SIDs: arrays on the device that say which tokens may follow.

A node of depth `d` is a prefix of `d` tokens that some SID starts with; the root has depth 0, the
leaves depth `L`. Level `l` leads from depth `l` to depth `l + 1`. How the nodes lie in tables, and
what their numbers mean, is said in `kernels.trie.tables`: prefixes sorted and packed, as compressed
rows are in other constrained decoders (STATIC, arXiv 2602.22647), but with bits where nodes have
many children, and with nothing but the sorted SIDs themselves where they have few.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32

from kernels.indices import int32_indices
from kernels.trie import live as trie_live
from kernels.trie.build import DEAD_NODE, build_arrays
from kernels.trie.layout import RowCapacities, TrieCapacities
from kernels.trie.live import Live
from kernels.trie.tables import Edges, MaskTable, RowTable, Table, take

__all__ = ["DEAD_NODE", "Children", "Live", "Trie", "TrieCapacities", "build_trie"]


class Children(NamedTuple):
    """The children of some nodes, sorted by token, in the level's `max_children` columns.

    Columns without a child may stand between those with one.

    Attributes:
        token: int32 `[..., C]`, 0 where there is no child.
        node: int32 `[..., C]`, `DEAD_NODE` where there is no child.
        valid: bool `[..., C]`, whether there is a child.
    """

    token: Int32[Array, "... C"]
    node: Int32[Array, "... C"]
    valid: Bool[Array, "... C"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trie:
    """A catalogue's SIDs as a prefix tree; a pytree, to be passed to jitted functions.

    The arrays are data, the capacities are static: tries of equal capacities share compiled
    programs. Make one with `build_trie`. A node is known by an int32 that means something at its
    depth only: the root is 0, others come from a beam step, `children` or `node_of`.

    Attributes:
        tables: the levels' tables, from the root to the leaves.
        item_start: int32 `[leaves + 1]`: where each leaf's items start in `item`.
        item: int32 `[rows]`: the items, leaf by leaf; -1 in the padding.
        item_leaf: int32 `[items]`: the leaf of each item id; `DEAD_NODE` for ids not in the trie.
        digest: int32 `[4]`: the same in tries of equal capacities, SIDs and items, in whatever
            order; different where a node or a leaf means something else.
        capacities: the padded sizes; static and hashable.
    """

    tables: tuple[Table, ...]
    item_start: Int32[Array, " leaves_plus_1"]
    item: Int32[Array, " rows"]
    item_leaf: Int32[Array, " items"]
    digest: Int32[Array, " words"]
    capacities: TrieCapacities = dataclasses.field(metadata={"static": True})

    @property
    def num_levels(self) -> int:
        """`L`, the number of tokens of a SID."""
        return self.capacities.num_levels

    @property
    def max_items_per_leaf(self) -> int:
        """The most items that one leaf may hold; static."""
        return self.capacities.items_per_leaf

    def table_at(self, level: int) -> Table:
        """Returns the table that holds `level`.

        Raises:
            ValueError: the trie has no such level.
        """
        self._check_level(level)
        return self.tables[self.capacities.table_index(level)]

    def max_children(self, level: int) -> int:
        """Returns `C`, the columns that the children of a node of depth `level` take; static.

        A mask table has one column a token of its span, a row table one a row below the node.
        """
        sizes = self.table_at(level).capacities
        return sizes.columns[level - sizes.level]

    def edges(self, node: Int[Array, " ..."], level: int) -> Edges:
        """Returns the children of nodes of depth `level` by their places in the table."""
        return self.table_at(level).edges(jnp.asarray(int32_indices("node", node)), level)

    def below(self, edge: Int32[Array, " ..."], level: int) -> Int32[Array, " ..."]:
        """Returns the nodes of depth `level + 1` that edges of `level` lead to."""
        table = self.table_at(level)
        sizes = table.capacities
        if table.below is None or level < sizes.level + sizes.num_levels - 1:
            return edge
        return take(table.below.reshape(-1), edge)

    def children(self, node: Int[Array, " ..."], level: int) -> Children:
        """Returns the children of nodes of depth `level`; none for `DEAD_NODE`.

        Args:
            node: int `[...]`, nodes of depth `level`.
            level: static, in `[0, L)`.

        Raises:
            ValueError: the trie has no such level, or nodes that are not integers.
        """
        found = self.edges(node, level)
        node = jnp.where(found.valid, self.below(found.edge, level), DEAD_NODE)
        return Children(token=found.token, node=node, valid=found.valid)

    def num_children(self, node: Int[Array, " ..."], level: int) -> Int32[Array, " ..."]:
        """Returns how many children nodes of depth `level` have; arguments as `children`."""
        return jnp.sum(self.edges(node, level).valid, axis=-1, dtype=jnp.int32)

    def node_of(self, prefix: Int[Array, "... d"]) -> Int32[Array, " ..."]:
        """Returns the nodes of prefixes; `DEAD_NODE` where no SID starts that way.

        Args:
            prefix: int `[..., d]`, `0 <= d <= L` tokens each.

        Raises:
            ValueError: prefixes longer than a SID, or no integers.
        """
        prefix = jnp.asarray(int32_indices("prefix", prefix))
        if prefix.ndim < 1 or prefix.shape[-1] > self.num_levels:
            raise ValueError(f"prefix: shape {prefix.shape}; at most {self.num_levels} tokens each")
        node = jnp.zeros(prefix.shape[:-1], jnp.int32)
        for level in range(prefix.shape[-1]):
            table, token = self.table_at(level), prefix[..., level]
            if isinstance(table, MaskTable):
                found, edge = table.has(node, token), table.edge_of(node, token)
            else:
                child = table.edges(node, level)
                same = child.valid & (child.token == token[..., None])
                found = jnp.any(same, axis=-1)
                # At most one child has the token, so the maximum is its edge.
                edge = jnp.max(jnp.where(same, child.edge, 0), axis=-1)
            node = jnp.where(found, self.below(edge, level), DEAD_NODE)
        return node

    def items(
        self, leaf: Int[Array, " ..."], *, width: int | None = None
    ) -> Int32[Array, "... width"]:
        """Returns the items of leaves, int32 `[..., width]`, -1 where none.

        The items of one leaf come in the order of the rows that the trie was built from.

        Args:
            leaf: int `[...]`; a number that is not a leaf's has no items.
            width: static: how many items of each leaf, the first ones; `max_items_per_leaf` by
                default, and at most.

        Raises:
            ValueError: a width below 1, or leaves that are not integers.
        """
        width = self.max_items_per_leaf if width is None else min(width, self.max_items_per_leaf)
        if width < 1:
            raise ValueError(f"width: {width}; it must be at least 1")
        leaf = jnp.asarray(int32_indices("leaf", leaf))
        # What lies outside would be clipped to the first or the last leaf, and have its items.
        known = (leaf >= 0) & (leaf < self.item_start.size - 1)
        first = take(self.item_start, leaf)
        count = jnp.where(known, take(self.item_start, leaf + 1) - first, 0)
        place = jnp.arange(width, dtype=jnp.int32)
        item = take(self.item, first[..., None] + place)
        return jnp.where(place < count[..., None], item, -1)

    def leaf_of(self, item: Int[Array, " ..."]) -> Int32[Array, " ..."]:
        """Returns the leaf of each item, int32 `[...]`; `DEAD_NODE` for what is not in the trie.

        Raises:
            ValueError: the item ids are not integers.
        """
        item = jnp.asarray(int32_indices("item", item))
        known = (item >= 0) & (item < self.item_leaf.size)
        return jnp.where(known, take(self.item_leaf, item), DEAD_NODE)

    def live(self, allowed: Bool[Array, "*B items"]) -> Live:
        """Returns which nodes hold an allowed item, for `live=` of the beam step.

        Args:
            allowed: bool `[items]` for the whole batch or `[B, items]`, by item id. Ids past its
                end are not allowed. `[B, items]` costs a copy of the trie a user; where a request
                only excludes a few items, `live_excluding` is far smaller.

        Raises:
            ValueError: wrong shape or dtype.
        """
        return trie_live.live(self, allowed)

    def live_excluding(
        self,
        excluded: Int[Array, "B E"],
        allowed: Bool[Array, "*B items"] | None = None,
    ) -> Live:
        """Returns which nodes hold an item that is allowed and not excluded, exactly.

        The work is `E` entries a user and level: a branch that loses its last item is followed
        upwards from the excluded leaves, and nothing of the size of the trie is made a user.

        Args:
            excluded: int `[B, E]`, item ids of each user, in any order; -1 pads, duplicates and
                ids that are not in the trie change nothing.
            allowed: as for `live`; None allows every item.

        Raises:
            ValueError: wrong shape or dtype.
        """
        return trie_live.live_excluding(self, excluded, allowed)

    def live_children(
        self, live: Live, node: Int32[Array, "B M"], level: int
    ) -> Bool[Array, "B M C"]:
        """Returns which columns of `children(node, level)` are live; means nothing at the others.

        Nothing is live by a filter of another catalogue's trie, where that shows only when the
        program runs; see `Live`.

        Args:
            live: made by this trie, or one with its digest.
            node: int32 `[B, M]`, nodes of depth `level`.
            level: static, in `[0, L)`.

        Raises:
            ValueError: the trie has no such level; `live` is of another trie or batch.
        """
        trie_live.check(live, self, node.shape[0])
        return live.at_children(self, level, node)

    def _check_level(self, level: int) -> None:
        if not 0 <= level < self.num_levels:
            raise ValueError(f"level: {level}; the trie's levels are 0 to {self.num_levels - 1}")


def build_trie(
    sids: Any,
    items: Any = None,
    *,
    codebook_sizes: Sequence[int] | None = None,
    capacities: TrieCapacities | None = None,
) -> Trie:
    """Returns the trie of a catalogue.

    Args:
        sids: int `[N, L]`, `1 <= L <= 16`, or a sequence of tuples: one SID an item, in any
            order, duplicates allowed. Codes or tokens, any integers in `[0, 2^29)`.
        items: int `[N]`, distinct item ids; `arange(N)` by default. An array of the size of the
            largest id is kept. Items that share a SID keep the order of the rows, so rows that
            come most popular first rank the more popular item first.
        codebook_sizes: codes a level; where given, codes and the width of logits are checked.
        capacities: sizes to pad to, such as another trie's `capacities`, to swap catalogues
            without compiling anew. By default each is rounded up, by at most a quarter (small
            ones to a power of two), so that catalogues of about the same size mostly agree.

    Raises:
        ValueError: an empty catalogue, ragged or negative or too large codes, ids that repeat or
            are negative, capacities that do not suffice. The message names the row or the field.
    """
    arrays = build_arrays(sids, items, codebook_sizes, capacities)

    def device(array: np.ndarray | None) -> Array | None:
        return None if array is None else jnp.asarray(array)

    tables: list[Table] = []
    for table in arrays.tables:
        words, below = tuple(map(jnp.asarray, table.words)), device(table.below)
        if isinstance(table.capacities, RowCapacities):
            tables.append(RowTable(words, below, table.capacities))
        else:
            tables.append(MaskTable(words[0], below, table.capacities))
    return Trie(
        tables=tuple(tables),
        item_start=jnp.asarray(arrays.item_start),
        item=jnp.asarray(arrays.item),
        item_leaf=jnp.asarray(arrays.item_leaf),
        digest=jnp.asarray(arrays.digest),
        capacities=arrays.capacities,
    )
