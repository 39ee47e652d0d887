"""The compiled programs of a tile: a fixed number of users, prompts of few fixed widths.

A product's bits depend on its shape, so that a user's answer would depend on how many others share
a batch. Every program here runs on tiles of one size, filled up with users of no account; within a
tile a user's numbers depend neither on the place nor on the company (`check_places` asks a program
whether that is so on this processor).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from kernels.trie import DEAD_NODE, Trie
from minirec.decoding import ItemRanking, SearchResult, begin, rank_states, search_on
from minirec.decoding.state import DecodeState


class _Graph:
    """What is static of a model, hashed once: every call of a program asks for the hash."""

    def __init__(self, graph: Any):
        self.graph = graph
        self._hash = hash(graph)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Graph) and (self is other or self.graph == other.graph)


class Weights(NamedTuple):
    """A model as programs take it: what is static of it, and its arrays."""

    graph: _Graph
    state: Any

    @classmethod
    def of(cls, model: nnx.Module) -> Weights:
        """Returns a model's."""
        graph, state = nnx.split(model)
        return cls(_Graph(graph), state)

    @property
    def model(self) -> Any:
        """The model."""
        return nnx.merge(self.graph.graph, self.state)


class Reading(NamedTuple):
    """What a model has made of prompts; of the arrays one axis is that of users.

    Attributes:
        hidden: `[B, D]`, see `SearchModel.prefill`.
        prefix: what the model keeps of the prompts.
        lengths: `[B]`.
    """

    hidden: Float[Array, "B D"]
    prefix: Any
    lengths: Int[Array, " B"]


class Filters(NamedTuple):
    """What must not be recommended.

    Attributes:
        excluded: `[B, E]`, item ids by user, -1 pads.
        allowed: `[items]`, for all users.
    """

    excluded: Int[Array, "B E"]
    allowed: Bool[Array, " items"]


class TracedLevel(NamedTuple):
    """The beams after a level; see `minirec.serving.query.Level`."""

    sid: Int[Array, "B M l"]
    score: Float[Array, "B M"]
    children: Int[Array, "B M"]
    allowed: Int[Array, "B M"]


class Programs:
    """Reads prompts, searches, ranks by an item table: each a tile at a time.

    Attributes:
        tile: `B`, users of a tile.
        num_beams: beams of a search, and items that it returns.
        num_items: items that an item table's ranking returns; 0 where the model has none.
        num_traces: how many programs have been made so far.
    """

    def __init__(self, *, tile: int, num_beams: int, normalize: str, num_items: int):
        """Compiles nothing yet.

        Args:
            tile: users of a tile.
            num_beams: see `minirec.decoding.beam_search`.
            normalize: see `minirec.decoding.beam_search`.
            num_items: items that an item table's ranking returns; 0: there is no table.

        Raises:
            ValueError: no user, no beam, or fewer than no items.
        """
        for name, value, least in (
            ("tile", tile, 1),
            ("num_beams", num_beams, 1),
            ("num_items", num_items, 0),
        ):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        self.tile, self.num_beams, self.num_items = tile, num_beams, num_items
        self.num_traces = 0
        self._normalize = normalize
        self.read = self._compiled(self._read)
        self.read_block = self._compiled(self._read_block)
        self.search = self._compiled(self._search)
        self.rank = self._compiled(self._rank)
        self.trace = self._compiled(self._trace)

    def _compiled(self, program: Callable[..., Any]) -> Callable[..., Any]:
        def traced(graph: _Graph, state: Any, *args: Any) -> Any:
            self.num_traces += 1  # Python runs this line only while tracing.
            return program(nnx.merge(graph.graph, state), *args)

        jitted = jax.jit(traced, static_argnums=0)

        def call(weights: Weights, *args: Any) -> Any:
            return jitted(weights.graph, weights.state, *args)

        return call

    def _read(self, model: Any, prompts: Int[Array, "B S"], lengths: Int[Array, " B"]) -> Reading:
        hidden, prefix = model.prefill(prompts, lengths)
        return Reading(hidden, prefix, lengths.astype(jnp.int32))

    def _read_block(
        self, model: Any, tokens: Int[Array, "B n"], start: Int[Array, ""], reading: Reading
    ) -> Reading:
        hidden, prefix = model.prefill_block(tokens, start, reading.lengths, reading.prefix)
        place = reading.lengths - 1 - start
        ends_here = (place >= 0) & (place < tokens.shape[1])
        hidden = jnp.where(ends_here[:, None], hidden, reading.hidden)
        return Reading(hidden, prefix, reading.lengths)

    def _search(self, model: Any, reading: Reading, trie: Trie, filters: Filters) -> SearchResult:
        return self._searched(model, reading, trie, filters, None)

    def _rank(self, model: Any, reading: Reading, trie: Trie, filters: Filters) -> ItemRanking:
        return rank_states(
            model,
            reading.prefix,
            trie,
            num_items=self.num_items,
            excluded=filters.excluded,
            allowed=filters.allowed,
        )

    def _trace(
        self, model: Any, reading: Reading, trie: Trie, filters: Filters
    ) -> tuple[TracedLevel, ...]:
        live = trie.live_excluding(filters.excluded, filters.allowed)
        levels: list[TracedLevel] = []

        def keep(level: int, after: DecodeState) -> None:
            node, below = after.beams.node, level + 1
            children = allowed = jnp.zeros_like(node)
            if below < trie.num_levels:
                valid = trie.children(node, below).valid & (node != DEAD_NODE)[..., None]
                children = valid.sum(axis=-1, dtype=jnp.int32)
                living = valid & trie.live_children(live, node, below)
                allowed = living.sum(axis=-1, dtype=jnp.int32)
            levels.append(TracedLevel(after.sid, after.beams.score, children, allowed))

        self._searched(model, reading, trie, filters, keep)
        return tuple(levels)

    def _searched(
        self,
        model: Any,
        reading: Reading,
        trie: Trie,
        filters: Filters,
        on_level: Callable[[int, DecodeState], None] | None,
    ) -> SearchResult:
        state = begin(
            model,
            reading.hidden,
            reading.prefix,
            reading.lengths,
            num_beams=self.num_beams,
            num_levels=trie.num_levels,
        )
        return search_on(
            model,
            state,
            trie,
            num_beams=self.num_beams,
            normalize=self._normalize,
            excluded=filters.excluded,
            allowed=filters.allowed,
            on_level=on_level,
        )


class Rows:
    """Takes the users of a `Reading` apart and puts others together, on the host."""

    def __init__(self, programs: Programs, weights: Weights, width: int, dtype: Any = np.int32):
        """Finds out which axis of each array is that of users.

        Args:
            programs: of the reading.
            weights: of the model.
            width: of prompts.
            dtype: of prompts.
        """

        def shapes(users: int) -> Any:
            prompts = jax.ShapeDtypeStruct((users, width), dtype)
            lengths = jax.ShapeDtypeStruct((users,), np.int32)
            model = weights.model
            return jax.eval_shape(model.prefill, prompts, lengths)

        few, more = shapes(programs.tile), shapes(programs.tile + 1)
        axes = jax.tree.map(
            lambda a, b: next(
                i for i, pair in enumerate(zip(a.shape, b.shape, strict=True)) if pair[0] != pair[1]
            ),
            few,
            more,
        )
        self._axes = jax.tree.leaves(axes)
        self._tree = jax.tree.structure(few)
        self.num_bytes = sum(
            leaf.size * leaf.dtype.itemsize // programs.tile for leaf in jax.tree.leaves(few)
        )

    def take(self, reading: Reading, row: int) -> tuple[np.ndarray, ...]:
        """Returns a user's arrays, copied."""
        leaves = jax.tree.leaves((reading.hidden, reading.prefix))
        return tuple(
            np.take(np.asarray(leaf), row, axis=axis).copy()
            for leaf, axis in zip(leaves, self._axes, strict=True)
        )

    def together(
        self, rows: Sequence[tuple[np.ndarray, ...]], lengths: Int[np.ndarray, " B"]
    ) -> Reading:
        """Returns the reading of some users, a tile of them."""
        leaves = [
            np.stack([row[place] for row in rows], axis=axis)
            for place, axis in enumerate(self._axes)
        ]
        hidden, prefix = jax.tree.unflatten(self._tree, leaves)
        return Reading(hidden, prefix, jnp.asarray(lengths))
