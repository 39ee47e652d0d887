"""STATIC's beam steps for ahead-of-time compilation, beside `tpu_specs.py`; needs STATIC_PATH.

The same four steps over the arrays that STATIC's index of as many random SIDs has: a tool that
compiles a callable for a TPU counts both by the same rule. `youtube_wide_30` and `amazon_wide_30`
keep 30 candidates a beam, which is STATIC's default and not exact; without the number all are kept.
"""

# ruff: noqa: E402

from __future__ import annotations

import functools
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp

_ROOT = str(pathlib.Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from kernels.beam_step.shapes import SHAPES
from kernels.bench.static import DEFAULT_TOKENS_PER_BEAM, StaticBeams, StaticIndex, step
from kernels.bench.tpu_specs import Spec

# Distinct prefixes a depth of so many random SIDs, and the most children of a node of each level.
_YOUTUBE = ((2048, 4_158_000, *(20_000_000,) * 6), (2048, 2048, 20, 4, 2, 1, 1, 1))
_AMAZON = ((256, 51_300, 99_700, 100_000), (256, 224, 10, 2))


def youtube_narrow() -> Spec:
    """Returns level 2 of 20 million SIDs."""
    return _spec("youtube_narrow", _YOUTUBE)


def youtube_wide() -> Spec:
    """Returns level 1 of 20 million SIDs, all candidates."""
    return _spec("youtube_wide", _YOUTUBE)


def youtube_wide_30() -> Spec:
    """Returns level 1 of 20 million SIDs, 30 candidates a beam."""
    return _spec("youtube_wide", _YOUTUBE, DEFAULT_TOKENS_PER_BEAM)


def amazon_narrow() -> Spec:
    """Returns level 2 of 100,000 SIDs."""
    return _spec("amazon_narrow", _AMAZON)


def amazon_wide() -> Spec:
    """Returns level 1 of 100,000 SIDs, all candidates."""
    return _spec("amazon_wide", _AMAZON)


def amazon_wide_30() -> Spec:
    """Returns level 1 of 100,000 SIDs, 30 candidates a beam."""
    return _spec("amazon_wide", _AMAZON, DEFAULT_TOKENS_PER_BEAM)


def _spec(
    name: str,
    catalogue: tuple[tuple[int, ...], tuple[int, ...]],
    tokens_per_beam: int | None = None,
) -> Spec:
    shape, (prefixes, branches) = SHAPES[name], catalogue
    array: Any = jax.ShapeDtypeStruct
    vocab = shape.vocab
    states = vocab + 1 + sum(prefixes[1:-1])
    index = StaticIndex(
        packed_csr=array((sum(prefixes[1:]) + vocab, 2), jnp.int32),
        csr_indptr=array((states + 2,), jnp.int32),
        start_mask=array((vocab,), jnp.bool_),
        dense_mask=array((vocab, vocab), jnp.bool_),
        dense_states=array((vocab, vocab), jnp.int32),
        max_branch_factors=branches,
        vocab_size=vocab,
        d_dense=2,
    )
    beams = StaticBeams(
        state=array((shape.batch, shape.beams), jnp.int32),
        score=array((shape.batch, shape.beams), jnp.float32),
    )
    called = functools.partial(
        step, level=shape.level, num_beams=shape.num_beams, tokens_per_beam=tokens_per_beam
    )
    logits = array((shape.batch, shape.beams, vocab), shape.dtype)
    return jax.jit(called), [logits, beams, index]
