"""The real shapes of the fused head: language models whose last tokens are the codes."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int64

from kernels.beam_step.types import Beams
from kernels.trie import Trie


@dataclasses.dataclass(frozen=True)
class HeadShape:
    """One step of a search, at one level of a random catalogue.

    Attributes:
        name: what the shape is called in tests and benchmarks.
        batch: `B`, users.
        beams: `M`, beams a user that come in, and go out.
        vocab: `V`, rows of the head.
        width: `D`.
        level: the level of the step.
        codes: codes a level; each level has tokens of its own, the last ones of the vocabulary.
        num_sids: SIDs drawn; a few may be equal.
        levels: `L` of the catalogue.
        dtype: of the hidden states and the head.
    """

    name: str
    batch: int
    beams: int
    vocab: int
    width: int
    level: int
    codes: int = 256
    num_sids: int = 3_686
    levels: int = 3
    dtype: str = "float32"


_LANGUAGE_MODEL = {"batch": 2, "beams": 50, "vocab": 152_704}

SHAPES: dict[str, HeadShape] = {
    shape.name: shape
    for shape in (
        HeadShape("language_model_64", width=64, level=2, **_LANGUAGE_MODEL),
        HeadShape("language_model_256", width=256, level=2, **_LANGUAGE_MODEL),
        HeadShape("language_model_896", width=896, level=2, **_LANGUAGE_MODEL),
        # Nodes with so many children that they are a mask over a span of tokens.
        HeadShape(
            "language_model_896_wide", width=896, level=1, num_sids=100_000, **_LANGUAGE_MODEL
        ),
        HeadShape(
            "language_model_896_bfloat16", width=896, level=2, dtype="bfloat16", **_LANGUAGE_MODEL
        ),
    )
}


class HeadInputs(NamedTuple):
    """The arguments of one step.

    Attributes:
        hidden: `[B, M, D]` of the shape's dtype.
        head: `[V, D]` of the shape's dtype; the logits' standard deviation is about 2.
        beams: nodes of the level that have children; scores in falling order.
    """

    hidden: Float[Array, "B M D"]
    head: Float[Array, "V D"]
    beams: Beams


def random_sids(shape: HeadShape, seed: int = 0) -> Int64[np.ndarray, "N L"]:
    """Returns a random catalogue of the shape, as tokens, int64 `[num_sids, levels]`."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, shape.codes, (shape.num_sids, shape.levels))
    first = shape.vocab - shape.codes * shape.levels
    return codes + first + shape.codes * np.arange(shape.levels)


def random_inputs(shape: HeadShape, trie: Trie, seed: int = 0) -> HeadInputs:
    """Returns random factors and beams of the shape, the beams on prefixes of its catalogue."""
    random = np.random.default_rng(seed)
    prefixes = np.unique(random_sids(shape, seed)[:, : shape.level], axis=0)
    chosen = random.integers(0, len(prefixes), (shape.batch, shape.beams))
    score = -np.sort(random.exponential(3.0 * shape.level, (shape.batch, shape.beams)))
    hidden = random.standard_normal((shape.batch, shape.beams, shape.width), np.float32)
    head = random.standard_normal((shape.vocab, shape.width), np.float32)
    return HeadInputs(
        hidden=jnp.asarray(hidden, shape.dtype),
        head=jnp.asarray(head * (2 / shape.width**0.5), shape.dtype),
        beams=Beams(
            node=jax.jit(Trie.node_of)(trie, jnp.asarray(prefixes[chosen], jnp.int32)),
            score=jnp.asarray(score, jnp.float32),
        ),
    )
