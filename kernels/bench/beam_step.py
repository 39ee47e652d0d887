"""The beam step beside what one writes without it: log-softmax, dense mask, `top_k`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.beam_step import IMPLEMENTATIONS, Beams, BeamStep, beam_step
from kernels.beam_step.shapes import SHAPES, BeamStepShape, random_inputs, random_sids
from kernels.bench.timing import median_seconds
from kernels.trie import DEAD_NODE, Trie, build_trie

NAIVE = "log_softmax_mask_top_k"
_FLOOR = "read the logits"


def run(shapes: Sequence[str] | None = None, repeats: int = 50) -> Iterator[dict[str, Any]]:
    """Yields a row for each shape and implementation of this platform, and for the naive step.

    All implementations of a shape are timed in turns in the same run. A row holds

    - `microseconds`: the median of a whole step, from logits and nodes to new nodes;
    - `floor_bytes`: what any exact step must move: each logit read once, the children's tokens and
      the beams read, the new beams written;
    - `floor_microseconds`: a mere maximum of the same logits, timed in the same turns, so from the
      same cache or memory; `of_floor`: that over the step's time;
    - `naive_ratio`: the naive step's time over this one's.

    Args:
        shapes: names of `SHAPES`; all by default.
        repeats: most rounds a shape.

    Raises:
        ValueError: an unknown shape.
    """
    names = list(SHAPES) if shapes is None else list(shapes)
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        raise ValueError(f"shapes: {unknown} are not known; there are {', '.join(SHAPES)}")
    platform = jax.default_backend()
    for name in names:
        shape = SHAPES[name]
        trie = build_trie(random_sids(shape))
        inputs = random_inputs(shape, trie)
        calls = {
            implementation: functools.partial(
                jax.jit(
                    functools.partial(
                        beam_step,
                        level=shape.level,
                        num_beams=shape.num_beams,
                        implementation=implementation,
                    )
                ),
                inputs.logits,
                inputs.beams,
                trie,
            )
            for implementation, entry in IMPLEMENTATIONS.items()
            if platform in entry.platforms
        }
        calls[NAIVE] = functools.partial(
            naive_step, inputs.logits, inputs.beams, trie, shape.level, shape.num_beams
        )
        calls[_FLOOR] = functools.partial(jax.jit(jnp.max), inputs.logits)
        times = median_seconds(calls, repeats)
        floor = times.pop(_FLOOR)
        floor_bytes = _floor_bytes(shape, trie, inputs.logits)
        for implementation, seconds in times.items():
            yield {
                "benchmark": "beam_step",
                "shape": name,
                "implementation": implementation,
                "microseconds": round(1e6 * seconds, 1),
                "naive_ratio": round(times[NAIVE] / seconds, 2),
                "floor_bytes": floor_bytes,
                "floor_microseconds": round(1e6 * floor, 1),
                "of_floor": round(floor / seconds, 3),
                "batch": shape.batch,
                "beams": shape.beams,
                "vocab": shape.vocab,
                "children": trie.max_children(shape.level),
                "level": shape.level,
                "num_sids": shape.num_sids,
                "dtype": shape.dtype,
                "device": jax.devices()[0].device_kind,
            }


@functools.partial(jax.jit, static_argnums=(3, 4))
def naive_step(
    logits: Float[Array, "B M V"], beams: Beams, trie: Trie, level: int, num_beams: int
) -> BeamStep:
    """Returns the step as XLA operations over the whole vocabulary, for comparison.

    Log-softmax of every row, a dense mask of the allowed tokens, `top_k` over all `M·V`, then the
    new nodes by each token's place among its parent's children. No NaN is caught.
    """
    batch, num_parents, vocab = logits.shape
    child = trie.children(beams.node, level)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    b, m = jnp.indices((batch, num_parents))
    column = jnp.where(child.valid, child.token, vocab)
    mask = jnp.zeros(logits.shape, bool)
    mask = mask.at[b[..., None], m[..., None], column].set(True, mode="drop")
    scores = jnp.where(mask, beams.score[..., None] + log_probs, -jnp.inf)
    kept = min(num_beams, num_parents * vocab)
    score, best = jax.lax.top_k(scores.reshape(batch, -1), kept)
    dead = score == -jnp.inf
    parent, token = best // vocab, best % vocab

    first = jnp.take_along_axis(child.node[..., 0], parent, axis=-1)
    siblings = jnp.take_along_axis(column, parent[..., None], axis=1)
    node = first + jnp.sum(siblings < token[..., None], axis=-1)

    def padded(values: Array, fill: float) -> Array:
        values = jnp.where(dead, fill, values)
        return jnp.pad(values, [(0, 0), (0, num_beams - kept)], constant_values=fill)

    return BeamStep(
        token=padded(token, 0),
        parent=padded(parent, 0),
        node=padded(node, DEAD_NODE),
        score=padded(score, -jnp.inf),
    )


def _floor_bytes(shape: BeamStepShape, trie: Trie, logits: Array) -> int:
    """Returns the bytes of logits, of the children's tokens, and of the beams in and out."""
    tokens = 4 * shape.batch * shape.beams * trie.max_children(shape.level)
    # Node and score come in; the range of each node's children is two more integers.
    beams_in = 4 * 4 * shape.batch * shape.beams
    beams_out = 4 * 4 * shape.batch * shape.num_beams
    return logits.nbytes + tokens + beams_in + beams_out
