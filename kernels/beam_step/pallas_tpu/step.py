"""The beam step as one Pallas TPU kernel, from logits and nodes to the new beams.

Which kernel depends on the kind of table that holds the level: `tpu.rows` or `tpu.wide`. On a CPU
the kernels run in Pallas's interpreter, so that they can be asked for by name and tested anywhere;
compiled ahead of time for a TPU they are the kernels themselves.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from kernels import dispatch
from kernels.beam_step.pallas_tpu.rows import row_step
from kernels.beam_step.pallas_tpu.wide import wide_step
from kernels.beam_step.types import Beams, BeamStep
from kernels.trie import Live, Trie
from kernels.trie.tables import RowTable


@functools.partial(jax.jit, static_argnames=("level", "num_beams", "normalize"))
def beam_step(
    logits: Float[Array, "B M V"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    normalize: str,
    log_normalizer: Float32[Array, "B M"] | None,
    live: Live | None,
) -> BeamStep:
    """Returns the best beams; see `kernels.beam_step.beam_step`."""
    mode = normalize if log_normalizer is None else "given"
    return _step(logits, beams, trie, level, num_beams, mode, log_normalizer, live)


@functools.partial(jax.jit, static_argnames=("level", "num_beams"))
def beam_select(
    candidate_log_probs: Float32[Array, "B M C"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    live: Live | None,
) -> BeamStep:
    """Returns the best beams; see `kernels.beam_step.beam_select`."""
    return _step(candidate_log_probs, beams, trie, level, num_beams, "columns", None, live)


def _step(
    values: Array,
    beams: Beams,
    trie: Trie,
    level: int,
    num_beams: int,
    mode: str,
    log_normalizer: Array | None,
    live: Live | None,
) -> BeamStep:
    table = trie.table_at(level)
    sizes = table.capacities
    live_mask = None
    if live is not None:
        live_mask = trie.live_children(live, beams.node, level)
    # Within a table an edge is the next level's node; only the last level's leads into another.
    below = table.below if level == sizes.level + sizes.num_levels - 1 else None
    if isinstance(table, RowTable):
        field = table.field(level)
        step = functools.partial(
            row_step,
            mode=mode,
            field=field,
            lines_per_node=table.lines_per_node,
            num_beams=num_beams,
        )
        lines = table.words[field.word]
        if live_mask is not None:
            # The rows' kernel gathers it along lanes like the logits, as 32-bit values.
            live_mask = live_mask.astype(jnp.float32)
    else:
        step = functools.partial(
            wide_step,
            first_token=table.capacities.first_token,
            span=table.capacities.span,
            num_beams=num_beams,
            mode=mode,
        )
        lines = table.mask
    return BeamStep(
        *dispatch.interpreted_on_cpu(
            step, values, beams.node, beams.score, lines, below, log_normalizer, live_mask
        )
    )
