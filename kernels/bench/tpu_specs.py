"""Beam steps for ahead-of-time compilation: one function a shape, nothing built, nothing run.

Each returns `(callable, [shapes])`: the step exactly as `beam_search` calls it, over the arrays of
a trie of 20 million random SIDs (`youtube_*`, L=8) or of 100,000 (`amazon_*`, L=4). A tool that
compiles a callable for a TPU can be pointed at `kernels/bench/tpu_specs.py:youtube_narrow`.

The capacities below are those of `build_trie` for one draw of so many random SIDs, written down,
because building a trie of 20 million takes a quarter of a minute and 3 GB. A tool loads this file
by its path, so it finds the project by itself.
"""

# ruff: noqa: E402

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_ROOT = str(pathlib.Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from kernels.beam_step import Beams, beam_step
from kernels.beam_step.shapes import SHAPES, BeamStepShape, random_sids
from kernels.head_beam_step import head_beam_step
from kernels.trie import Trie, TrieCapacities, build_trie
from kernels.trie.layout import DIGEST_WORDS, LINE, MaskCapacities, RowCapacities
from kernels.trie.tables import MaskTable, RowTable

_YOUTUBE = TrieCapacities(
    tables=(
        MaskCapacities(level=0, nodes=1, first_token=0, span=2048, edges=2048),
        MaskCapacities(level=1, nodes=2048, first_token=0, span=2048, edges=4_194_304),
        RowCapacities(level=2, lines=163_840, bits=(11,) * 6, columns=(20, 4, 2, 1, 1, 1)),
    ),
    items=20_971_520,
    rows=20_971_520,
    items_per_leaf=1,
)
_AMAZON = TrieCapacities(
    tables=(
        MaskCapacities(level=0, nodes=1, first_token=0, span=256, edges=256),
        MaskCapacities(level=1, nodes=256, first_token=0, span=256, edges=57_344),
        RowCapacities(level=2, lines=896, bits=(8, 8), columns=(10, 2)),
    ),
    items=114_688,
    rows=114_688,
    items_per_leaf=1,
)

Spec = tuple[Callable[..., Any], list[Any]]


def youtube_narrow() -> Spec:
    """Returns level 2 of 20 million SIDs: B=2, M=70, V=2048, at most 20 rows a node."""
    return _spec(SHAPES["youtube_narrow"], _YOUTUBE)


def youtube_wide() -> Spec:
    """Returns level 1 of 20 million SIDs: B=2, M=70, V=2048, about 2,000 children a node."""
    return _spec(SHAPES["youtube_wide"], _YOUTUBE)


def amazon_narrow() -> Spec:
    """Returns level 2 of 100,000 SIDs: B=16, M=50, V=256, at most 10 rows a node."""
    return _spec(SHAPES["amazon_narrow"], _AMAZON)


def amazon_wide() -> Spec:
    """Returns level 1 of 100,000 SIDs: B=16, M=50, V=256, about 200 children a node."""
    return _spec(SHAPES["amazon_wide"], _AMAZON)


def language_model_head() -> Spec:
    """Returns the fused head over 152,704 tokens: B=2, M=50, D=1024, bfloat16, level 1 of 3,686."""
    shape, width = SHAPES["language_model"], 1024
    capacities = build_trie(random_sids(shape)).capacities
    array: Any = jax.ShapeDtypeStruct

    def called(hidden: Any, head: Any, beams: Beams, trie: Trie) -> Any:
        return head_beam_step(
            hidden,
            head,
            beams,
            trie,
            shape.level,
            num_beams=shape.num_beams,
            implementation="pallas_tpu",
        )

    hidden = array((shape.batch, shape.beams, width), shape.dtype)
    head = array((shape.vocab, width), shape.dtype)
    return jax.jit(called), [hidden, head, _beams(shape), abstract_trie(capacities)]


def abstract_trie(capacities: TrieCapacities) -> Trie:
    """Returns a trie whose arrays are shapes only, for tracing.

    Args:
        capacities: the trie's sizes.
    """

    def array(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    tables: list[MaskTable | RowTable] = []
    for sizes, next_sizes in zip(capacities.tables, (*capacities.tables[1:], None), strict=True):
        # Edges of a mask are numbered as the nodes of a mask below it are.
        translated = isinstance(next_sizes, RowCapacities)
        below = array(-(-sizes.edges // LINE), LINE) if translated else None
        if isinstance(sizes, MaskCapacities):
            tables.append(MaskTable(array(sizes.nodes * sizes.blocks, LINE), below, sizes))
        else:
            words = tuple(array(sizes.lines, LINE) for _ in range(sizes.num_words))
            tables.append(RowTable(words, below, sizes))
    leaves = capacities.tables[-1].edges
    return Trie(
        tables=tuple(tables),
        item_start=array(leaves + 1),
        item=array(capacities.rows),
        item_leaf=array(capacities.items),
        digest=array(DIGEST_WORDS),
        capacities=capacities,
    )


def _spec(shape: BeamStepShape, capacities: TrieCapacities) -> Spec:
    step = functools.partial(
        beam_step,
        level=shape.level,
        num_beams=shape.num_beams,
        implementation="pallas_tpu",
    )

    def called(logits: Any, beams: Beams, trie: Trie) -> Any:
        return step(logits, beams, trie)

    logits = jax.ShapeDtypeStruct((shape.batch, shape.beams, shape.vocab), shape.dtype)
    return jax.jit(called), [logits, _beams(shape), abstract_trie(capacities)]


def _beams(shape: BeamStepShape) -> Beams:
    node: Any = jax.ShapeDtypeStruct((shape.batch, shape.beams), jnp.int32)
    score: Any = jax.ShapeDtypeStruct((shape.batch, shape.beams), jnp.float32)
    return Beams(node=node, score=score)
