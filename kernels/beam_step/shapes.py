"""The real shapes of the beam step; tests, benchmarks and tuning share them."""

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
class BeamStepShape:
    """One step of a search, at one level of a random catalogue.

    Attributes:
        name: what the shape is called in tests and benchmarks.
        batch: `B`, users.
        beams: `M`, beams a user that come in; 1 at the root.
        num_beams: beams a user that go out.
        vocab: `V`, width of the logits.
        levels: `L` of the catalogue.
        level: the level of the step.
        num_sids: SIDs drawn; a few may be equal.
        codes: codes a level; the last `codes` tokens of the vocabulary, if it is larger.
        first_codes: codes of level 0; fewer make level 1 as crowded as a larger catalogue's.
        dtype: of the logits.
    """

    name: str
    batch: int
    beams: int
    num_beams: int
    vocab: int
    levels: int
    level: int
    num_sids: int
    codes: int
    first_codes: int
    dtype: str = "float32"


def _shape(name: str, **sizes) -> BeamStepShape:
    sizes.setdefault("num_beams", sizes["beams"])
    sizes.setdefault("codes", sizes["vocab"])
    sizes.setdefault("first_codes", sizes["codes"])
    return BeamStepShape(name=name, **sizes)


_AMAZON = {"batch": 16, "beams": 50, "vocab": 256, "levels": 4, "num_sids": 100_000}
# As crowded from level 1 on as 20 million SIDs: 9,800 SIDs below each first code.
_YOUTUBE = {"batch": 2, "beams": 70, "vocab": 2048, "levels": 8, "num_sids": 1_000_000}
_YOUTUBE["first_codes"] = 102
_INDUSTRIAL = {"batch": 16, "beams": 50, "vocab": 256, "levels": 3, "num_sids": 3_686}

SHAPES: dict[str, BeamStepShape] = {
    shape.name: shape
    for shape in (
        _shape("industrial_root", **(_INDUSTRIAL | {"beams": 1, "num_beams": 50}), level=0),
        _shape("industrial", **_INDUSTRIAL, level=1),
        _shape("amazon_wide", **_AMAZON, level=1),
        _shape("amazon_narrow", **_AMAZON, level=2),
        _shape("youtube_wide", **_YOUTUBE, level=1),
        _shape("youtube_narrow", **_YOUTUBE, level=2),
        _shape("youtube_deep", **_YOUTUBE, level=7),
        # A language model's head: SID tokens at the end of a shared vocabulary.
        _shape(
            "language_model",
            batch=2,
            beams=50,
            vocab=152_704,
            levels=3,
            level=1,
            num_sids=3_686,
            codes=768,
            dtype="bfloat16",
        ),
    )
}


class StepInputs(NamedTuple):
    """The arguments of one step.

    Attributes:
        logits: `[B, M, V]` of the shape's dtype.
        beams: distinct nodes of each user, where the trie has enough; scores in falling order.
    """

    logits: Float[Array, "B M V"]
    beams: Beams


def random_sids(shape: BeamStepShape, seed: int = 0) -> Int64[np.ndarray, "N L"]:
    """Returns a random catalogue of the shape, int64 `[num_sids, levels]`."""
    random = np.random.default_rng(seed)
    sids = random.integers(0, shape.codes, (shape.num_sids, shape.levels))
    sids[:, 0] = random.integers(0, shape.first_codes, shape.num_sids)
    return sids + (shape.vocab - shape.codes)


def random_inputs(shape: BeamStepShape, trie: Trie, seed: int = 0) -> StepInputs:
    """Returns random logits and beams of the shape, on nodes that have children.

    Args:
        shape: the shape; the trie is that of its `random_sids`.
        trie: where the nodes are.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    prefixes = np.unique(random_sids(shape)[:, : shape.level], axis=0)
    drawn = [
        random.choice(len(prefixes), shape.beams, replace=len(prefixes) < shape.beams)
        for _ in range(shape.batch)
    ]
    score = -np.sort(random.exponential(3.0 * shape.level, (shape.batch, shape.beams)))
    logits = random.standard_normal((shape.batch, shape.beams, shape.vocab), np.float32)
    return StepInputs(
        logits=jnp.asarray(3.0 * logits, shape.dtype),
        beams=Beams(
            node=jax.jit(Trie.node_of)(trie, jnp.asarray(prefixes[np.stack(drawn)])),
            score=jnp.asarray(score, jnp.float32),
        ),
    )
