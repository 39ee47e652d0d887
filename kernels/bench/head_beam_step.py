"""The fused head beside the same step on logits that are stored."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.beam_step import Beams, BeamStep, beam_step
from kernels.bench.timing import Call, median_step_seconds, named
from kernels.head_beam_step import IMPLEMENTATIONS, head_beam_step
from kernels.head_beam_step.logits import logits_of
from kernels.head_beam_step.shapes import SHAPES, HeadShape, random_inputs, random_sids
from kernels.trie import Trie, build_trie

UNFUSED = "unfused"
_FLOOR = "read the head"


def run(shapes: Sequence[str] | None = None, repeats: int = 20) -> Iterator[dict[str, Any]]:
    """Yields the rows of `time_shape` for each shape.

    Args:
        shapes: names of `SHAPES`; all by default.
        repeats: most rounds a shape.

    Raises:
        ValueError: an unknown shape.
    """
    for shape in named(SHAPES, shapes):
        yield from time_shape(shape, repeats)


def time_shape(shape: HeadShape, repeats: int = 20) -> Iterator[dict[str, Any]]:
    """Yields a row for each implementation of this platform, and for the unfused step.

    All take turns in the same run. A row holds

    - `microseconds`: the median of a whole step, from hidden states and nodes to new nodes;
    - `temporary_bytes`: what the compiled program holds beside its arguments and results, where
      the platform tells;
    - `floor_bytes`: the head, read once; `floor_microseconds`: a mere maximum of it, timed in the
      same turns; `of_floor`: that over the step's time. With many beams it is the product's
      operations that bound the step, not these bytes;
    - `floor_operations`: multiplications and additions of the product;
    - `unfused_ratio`: the unfused step's time over this one's.

    Args:
        shape: the shape.
        repeats: most rounds.
    """
    platform = jax.default_backend()
    trie = build_trie(random_sids(shape))
    inputs = random_inputs(shape, trie)
    options = {"level": shape.level, "num_beams": shape.beams}
    own, shared = (inputs.hidden,), (inputs.head, inputs.beams, trie)
    calls = {
        name: Call(functools.partial(head_beam_step, implementation=name, **options), own, shared)
        for name, implementation in IMPLEMENTATIONS.items()
        if platform in implementation.platforms
    }
    calls[UNFUSED] = Call(functools.partial(unfused_step, **options), own, shared)
    calls[_FLOOR] = Call(jnp.max, (inputs.head,))
    times = median_step_seconds(calls, repeats, seconds=2.0)
    floor = times.pop(_FLOOR)
    for name, taken in times.items():
        lowered = jax.jit(calls[name].function).lower(*own, *shared)
        memory = lowered.compile().memory_analysis()
        yield {
            "benchmark": "head_beam_step",
            "shape": shape.name,
            "implementation": name,
            "microseconds": round(1e6 * taken, 1),
            "unfused_ratio": round(times[UNFUSED] / taken, 2),
            "temporary_bytes": None if memory is None else memory.temp_size_in_bytes,
            "floor_bytes": inputs.head.nbytes,
            "floor_microseconds": round(1e6 * floor, 1),
            "floor_operations": 2 * shape.batch * shape.beams * inputs.head.size,
            "of_floor": round(floor / taken, 3),
            "batch": shape.batch,
            "beams": shape.beams,
            "vocab": shape.vocab,
            "width": shape.width,
            "children": trie.max_children(shape.level),
            "level": shape.level,
            "dtype": shape.dtype,
            "device": jax.devices()[0].device_kind,
        }


def unfused_step(
    hidden: Float[Array, "B M D"],
    head: Float[Array, "V D"],
    beams: Beams,
    trie: Trie,
    level: int,
    num_beams: int,
) -> BeamStep:
    """Returns the step on the whole product, by the beam step's own best implementation."""
    logits = logits_of(hidden.reshape(-1, hidden.shape[-1]), head)
    logits = logits.reshape(*hidden.shape[:2], -1)
    return beam_step(logits, beams, trie, level, num_beams=num_beams)
