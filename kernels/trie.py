"""The trie of a catalogue's SIDs: arrays on the device that say which tokens may follow.

Level-wise and lexicographic. A node of depth `d` is a distinct prefix of `d` tokens; its number is
its place among the sorted prefixes of that depth. The root is node 0 of depth 0, the leaves have
depth `L`. Level `l` leads from depth `l` to depth `l + 1`. Children of a node are neighbours,
sorted by token, so a node needs only where its children start: compressed sparse rows, as in
STATIC (arXiv 2602.22647) and other constrained decoders, here for every level, padded to
capacities and with the items below each leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Int32

from kernels import trie_live
from kernels.indices import int32_indices
from kernels.trie_build import DEAD_NODE, TrieCapacities, build_arrays
from kernels.trie_live import Live

__all__ = ["DEAD_NODE", "Children", "Live", "Trie", "TrieCapacities", "build_trie"]


class Children(NamedTuple):
    """The children of some nodes, sorted by token, padded to the level's `max_children`.

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
    programs. Make one with `build_trie`.

    Attributes:
        child_start: for each level `l`, int32 `[nodes of depth l + 1 more]`: the first child of
            each node, as a node of depth `l + 1`; one node's end is the next one's start.
        token: for each level `l`, int32 `[nodes of depth l+1]`: the token that leads to a node.
        parent: for each level `l`, int32 `[nodes of depth l+1]`: the node above, of depth `l`.
        item_start: int32 `[leaves + 1]`: where each leaf's items start in `item`.
        item: int32 `[rows]`: the items, leaf by leaf; -1 in the padding.
        item_leaf: int32 `[items]`: the leaf of each item id; `DEAD_NODE` for ids not in the trie.
        capacities: the padded sizes; static and hashable.
    """

    child_start: tuple[Int32[Array, " nodes_plus_1"], ...]
    token: tuple[Int32[Array, " nodes"], ...]
    parent: tuple[Int32[Array, " nodes"], ...]
    item_start: Int32[Array, " leaves_plus_1"]
    item: Int32[Array, " rows"]
    item_leaf: Int32[Array, " items"]
    capacities: TrieCapacities = dataclasses.field(metadata={"static": True})

    @property
    def num_levels(self) -> int:
        """`L`, the number of tokens of a SID."""
        return len(self.capacities.nodes)

    @property
    def max_items_per_leaf(self) -> int:
        """The most items that one leaf may hold; static."""
        return self.capacities.items_per_leaf

    def max_children(self, level: int) -> int:
        """Returns `C`, the most children that a node of depth `level` may have; static."""
        return self.capacities.children[level]

    def num_nodes(self, depth: int) -> int:
        """Returns the capacity of nodes of `depth`: 1 for the root's, leaves at depth `L`."""
        return (1, *self.capacities.nodes)[depth]

    def children(self, node: Int[Array, " ..."], level: int) -> Children:
        """Returns the children of nodes of depth `level`; none for `DEAD_NODE`.

        Args:
            node: int `[...]`, nodes of depth `level`; what is no node has no children.
            level: static, in `[0, L)`.

        Raises:
            ValueError: the trie has no such level, or nodes that are no integers.
        """
        first, count = self.child_range(node, level)
        child, valid = _window(first, count, self.max_children(level))
        token = _take(self.token[level], child)
        return Children(
            token=jnp.where(valid, token, 0),
            node=jnp.where(valid, child, DEAD_NODE),
            valid=valid,
        )

    def child_range(
        self, node: Int[Array, " ..."], level: int
    ) -> tuple[Int32[Array, " ..."], Int32[Array, " ..."]]:
        """Returns where the children of nodes start and how many they are, int32 `[...]` each.

        A node's children are neighbours: `first, first + 1, …, first + count - 1`, as nodes of
        depth `level + 1`. Where there are none, `first` means nothing.

        Args:
            node: int `[...]`, nodes of depth `level`; what is no node has no children.
            level: static, in `[0, L)`.

        Raises:
            ValueError: the trie has no such level, or nodes that are no integers.
        """
        self._check_level(level)
        return _range("node", self.child_start[level], node)

    def num_children(self, node: Int[Array, " ..."], level: int) -> Int32[Array, " ..."]:
        """Returns how many children nodes of depth `level` have; arguments as `child_range`."""
        return self.child_range(node, level)[1]

    def token_of(self, node: Int[Array, " ..."], level: int) -> Int32[Array, " ..."]:
        """Returns the token of `level` that leads to each node, int32 `[...]`.

        Args:
            node: int `[...]`, nodes of depth `level + 1`; what is no node gets some token.
            level: static, in `[0, L)`.

        Raises:
            ValueError: the trie has no such level, or nodes that are no integers.
        """
        self._check_level(level)
        return _take(self.token[level], jnp.asarray(int32_indices("node", node)))

    def items(
        self, leaf: Int[Array, " ..."], *, width: int | None = None
    ) -> Int32[Array, "... width"]:
        """Returns the items of leaves, int32 `[..., width]`, -1 where none.

        The items of one leaf come in the order of the rows that the trie was built from.

        Args:
            leaf: int `[...]`; what is no leaf has no items.
            width: static: how many items of each leaf, the first ones; `max_items_per_leaf` by
                default, and at most.

        Raises:
            ValueError: a width below 1, or leaves that are no integers.
        """
        width = self.max_items_per_leaf if width is None else min(width, self.max_items_per_leaf)
        if width < 1:
            raise ValueError(f"width: {width}; it must be at least 1")
        first, count = _range("leaf", self.item_start, leaf)
        row, valid = _window(first, count, width)
        return jnp.where(valid, _take(self.item, row), -1)

    def leaf_of(self, item: Int[Array, " ..."]) -> Int32[Array, " ..."]:
        """Returns the leaf of each item, int32 `[...]`; `DEAD_NODE` for what is not in the trie.

        Raises:
            ValueError: the item ids are no integers.
        """
        item = jnp.asarray(int32_indices("item", item))
        known = (item >= 0) & (item < self.item_leaf.size)
        return jnp.where(known, _take(self.item_leaf, item), DEAD_NODE)

    def live(self, allowed: Bool[Array, "*B items"]) -> Live:
        """Returns which nodes hold an allowed item, for `live=` of the beam step.

        Args:
            allowed: bool `[items]` for the whole batch or `[B, items]`, by item id. Ids past its
                end are not allowed. `[B, items]` costs `B` bools a node; where a request only
                excludes a few items, `live_excluding` is far smaller.

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

    def _check_level(self, level: int) -> None:
        if not 0 <= level < self.num_levels:
            raise ValueError(f"level: {level}; the trie's levels are 0 to {self.num_levels - 1}")


def _range(name: str, start: Array, index: Any) -> tuple[Array, Array]:
    """Returns `start[index]` and how far the next start lies; 0 where there is no such index."""
    index = jnp.asarray(int32_indices(name, index))
    known = (index >= 0) & (index < start.size - 1)
    first = _take(start, index)
    return first, jnp.where(known, _take(start, index + 1) - first, 0)


def _window(first: Array, count: Array, width: int) -> tuple[Array, Array]:
    """Returns the places `first + [0, width)` and which of them are among the first `count`."""
    place = jnp.arange(width, dtype=jnp.int32)
    return first[..., None] + place, place < count[..., None]


def _take(array: Array, index: Array) -> Array:
    """Returns `array[index]`, clipped at both ends; negative indices do not wrap around."""
    return array.at[index].get(mode="clip", wrap_negative_indices=False)


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
            order, duplicates allowed. Codes or tokens, any integers in `[0, 2^31)`.
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
    device = jax.tree.map(jnp.asarray, arrays[:-1])
    return Trie(*device, capacities=arrays.capacities)
