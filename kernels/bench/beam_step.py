"""The beam step beside what one writes without it, and beside STATIC's where that is at hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.beam_step import IMPLEMENTATIONS, Beams, BeamStep, UnsupportedError, beam_step
from kernels.beam_step.shapes import SHAPES, BeamStepShape, StepInputs, random_inputs, random_sids
from kernels.bench import static
from kernels.bench.timing import Call, median_step_seconds, named
from kernels.trie import DEAD_NODE, Trie, build_trie

NAIVE = "log_softmax_mask_top_k"
_FLOOR = "read the logits"


def run(shapes: Sequence[str] | None = None, repeats: int = 200) -> Iterator[dict[str, Any]]:
    """Yields the rows of `time_shape` for each shape.

    Args:
        shapes: names of `SHAPES`; all by default.
        repeats: most rounds a shape.

    Raises:
        ValueError: an unknown shape.
    """
    for shape in named(SHAPES, shapes):
        yield from time_shapes([shape], repeats)


def time_shapes(
    shapes: Sequence[BeamStepShape], repeats: int = 200, seconds: float = 0.5
) -> Iterator[dict[str, Any]]:
    """Yields the rows of `time_shape` for shapes that share a catalogue, that of the first.

    Args:
        shapes: alike in all that makes the catalogue.
        repeats: most rounds a shape.
        seconds: as in `time_shape`.
    """
    sids = random_sids(shapes[0])
    trie = build_trie(sids)
    index = static.build_index(sids, shapes[0].vocab) if static.is_named() else None
    for shape in shapes:
        inputs = random_inputs(shape, trie)
        beams = None
        if index is not None:
            beams = static.beams_of(index, trie, inputs.beams, shape.level, sids)
        yield from time_shape(shape, trie, inputs, index, beams, repeats, seconds)


def time_shape(
    shape: BeamStepShape,
    trie: Trie,
    inputs: StepInputs,
    static_index: static.StaticIndex | None = None,
    static_beams: static.StaticBeams | None = None,
    repeats: int = 200,
    seconds: float = 0.5,
) -> Iterator[dict[str, Any]]:
    """Yields a row for each implementation of this platform, the naive step and STATIC's.

    An implementation that is not made for the shape has no row.

    STATIC's where its index is given: exact, and at its dense level also with as few tokens a beam
    as its decode keeps by default, which is not exact. All take turns in the same run. A row holds

    - `microseconds`: the median of a whole step, from logits and nodes to new nodes;
    - `floor_bytes`: what any exact step must move: each logit read once, the children's tokens and
      the beams read, the new beams written;
    - `floor_microseconds`: a mere maximum of the same logits, timed in the same turns, so from the
      same cache or memory; `of_floor`: that over the step's time;
    - `naive_ratio`: the naive step's time over this one's;
    - `static_ratio`: the exact STATIC step's time over this one's; None where it did not run.

    Args:
        shape: the shape.
        trie: the catalogue.
        inputs: of the shape.
        static_index: STATIC's index of the catalogue.
        static_beams: STATIC's states of the same beams.
        repeats: most rounds.
        seconds: no further round starts once this much time a call has passed.
    """
    platform = jax.default_backend()
    options = {"level": shape.level, "num_beams": shape.num_beams}
    calls = {
        name: Call(functools.partial(beam_step, implementation=name, **options), inputs, (trie,))
        for name, implementation in IMPLEMENTATIONS.items()
        if platform in implementation.platforms
    }
    calls = {name: call for name, call in calls.items() if _is_supported(call)}
    calls[NAIVE] = Call(functools.partial(naive_step, **options), inputs, (trie,))
    if static_index is not None and static_beams is not None:
        calls |= _static_calls(shape, inputs.logits, static_index, static_beams)
    calls[_FLOOR] = Call(jnp.max, (inputs.logits,))
    times = median_step_seconds(calls, repeats, seconds)
    floor = times.pop(_FLOOR)
    for name, taken in times.items():
        yield {
            "benchmark": "beam_step",
            "shape": shape.name,
            "implementation": name,
            "microseconds": round(1e6 * taken, 1),
            "naive_ratio": round(times[NAIVE] / taken, 2),
            "static_ratio": round(times["static"] / taken, 2) if "static" in times else None,
            "floor_bytes": _floor_bytes(shape, trie, inputs.logits),
            "floor_microseconds": round(1e6 * floor, 1),
            "of_floor": round(floor / taken, 3),
            "batch": shape.batch,
            "beams": shape.beams,
            "vocab": shape.vocab,
            "children": trie.max_children(shape.level),
            "level": shape.level,
            "num_sids": shape.num_sids,
            "dtype": shape.dtype,
            "device": jax.devices()[0].device_kind,
        }


def _is_supported(call: Call) -> bool:
    try:
        jax.eval_shape(call.function, *call.own, *call.shared)
    except UnsupportedError:
        return False
    return True


def _static_calls(
    shape: BeamStepShape, logits: Array, index: static.StaticIndex, beams: static.StaticBeams
) -> dict[str, Call]:
    def call(tokens_per_beam: int | None) -> Call:
        step: Callable[..., Any] = functools.partial(
            static.step,
            level=shape.level,
            num_beams=shape.num_beams,
            tokens_per_beam=tokens_per_beam,
        )
        return Call(step, (logits, beams), (index,))

    few = static.DEFAULT_TOKENS_PER_BEAM
    calls = {"static": call(None)}
    if 0 < shape.level < index.d_dense:
        calls[f"static_{few}"] = call(few)
    return calls


def naive_step(
    logits: Float[Array, "B M V"], beams: Beams, trie: Trie, level: int, num_beams: int
) -> BeamStep:
    """Returns the step as one writes it in plain XLA, for comparison.

    Log-softmax of whole rows, the children's log-probabilities gathered from it, columns without a
    child masked, `top_k` over all of them. Faster than a mask as wide as the vocabulary. No NaN is
    caught.
    """
    batch, num_parents, _ = logits.shape
    child = trie.children(beams.node, level)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    log_probs = jnp.take_along_axis(log_probs, child.token, axis=-1, mode="clip")
    scores = jnp.where(child.valid, beams.score[..., None] + log_probs, -jnp.inf)
    columns = scores.shape[-1]
    kept = min(num_beams, num_parents * columns)
    score, best = jax.lax.top_k(scores.reshape(batch, -1), kept)
    dead = score == -jnp.inf

    def chosen(values: Array) -> Array:
        return jnp.take_along_axis(values.reshape(batch, -1), best, axis=-1)

    def padded(values: Array, fill: float) -> Array:
        values = jnp.where(dead, fill, values)
        return jnp.pad(values, [(0, 0), (0, num_beams - kept)], constant_values=fill)

    return BeamStep(
        token=padded(chosen(child.token), 0),
        parent=padded(best // columns, 0),
        node=padded(chosen(child.node), DEAD_NODE),
        score=padded(score, -jnp.inf),
    )


def _floor_bytes(shape: BeamStepShape, trie: Trie, logits: Array) -> int:
    """Returns the bytes of logits, of the children's tokens, and of the beams in and out."""
    # Children are listed, a word each, or marked, a bit for each token: whichever is less.
    children = min(4 * trie.max_children(shape.level), -(-shape.vocab // 8))
    # Node and score come in; token, parent, node and score go out.
    return logits.nbytes + shape.batch * (
        shape.beams * (children + 2 * 4) + shape.num_beams * 4 * 4
    )
