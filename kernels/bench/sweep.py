"""What a beam step costs as the catalogue, the vocabulary, the beams or the children grow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from kernels.beam_step.shapes import BeamStepShape
from kernels.bench.beam_step import time_shapes

NUM_SIDS = (10_000, 100_000, 1_000_000, 10_000_000, 20_000_000)
VOCAB = (256, 512, 1024, 2048, 4096, 8192)
BEAMS = (10, 35, 70, 140, 280, 512)
CHILDREN = (2, 8, 32, 128, 512, 2048)

_LEVELS = (1, 2)
# Level 0 has this many codes where children are swept, so that a beam each starts at another.
_FIRST_CODES = 70
_BASE = BeamStepShape(
    name="sweep",
    batch=2,
    beams=70,
    num_beams=70,
    vocab=2048,
    levels=8,
    level=1,
    num_sids=100_000,
    codes=2048,
    first_codes=2048,
)


def run(
    max_sids: int = NUM_SIDS[2], repeats: int = 30, seconds: float = 0.2
) -> Iterator[dict[str, Any]]:
    """Yields the rows of `time_shape` for each point of each sweep.

    Each row has also `sweep`, what grows, and `value`, how far; the rest stays at 100,000 random
    SIDs of 8 levels of 2048 codes, 2 users, 70 beams. Every point is timed at level 1, where nodes
    have many children, and at level 2, where they have few, but for `children`: there SIDs are
    drawn below 70 first codes until each has so many at level 1, give or take.

    Args:
        max_sids: larger catalogues are left out.
        repeats: most rounds a point.
        seconds: no further round starts once this much time a call has passed.
    """
    for sweep, value, shapes in _points(max_sids):
        for row in time_shapes(shapes, repeats, seconds):
            yield row | {"sweep": sweep, "value": value}


def _points(max_sids: int) -> Iterator[tuple[str, int, tuple[BeamStepShape, ...]]]:
    """Yields what grows, how far, and the shapes of one catalogue to time there."""

    def both_levels(**changes: Any) -> tuple[BeamStepShape, ...]:
        return tuple(dataclasses.replace(_BASE, level=level, **changes) for level in _LEVELS)

    for value in NUM_SIDS:
        if value <= max_sids:
            yield "num_sids", value, both_levels(num_sids=value)
    for value in VOCAB:
        yield "vocab", value, both_levels(vocab=value, codes=value, first_codes=value)
    for value in BEAMS:
        yield "beams", value, both_levels(beams=value, num_beams=value)
    for value in CHILDREN:
        # Of 2048 codes drawn at random some come twice: this many draws reach `value`, and four
        # a code nearly all.
        draws = min(-math.log1p(-min(value / 2048, 1 - 1e-9)), 4.0) * 2048
        yield (
            "children",
            value,
            (
                dataclasses.replace(
                    _BASE, num_sids=round(draws * _FIRST_CODES), first_codes=_FIRST_CODES, levels=3
                ),
            ),
        )
