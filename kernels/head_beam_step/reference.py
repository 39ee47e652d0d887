"""The fused head, spelled out: all logits, then the beam step's reference. The oracle."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.beam_step import reference
from kernels.beam_step.types import Beams, BeamStep
from kernels.head_beam_step.logits import logits_of
from kernels.trie import Live, Trie


@functools.partial(jax.jit, static_argnames=("level", "num_beams", "normalize"))
def head_beam_step(
    hidden: Float[Array, "B M D"],
    head: Float[Array, "V D"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    normalize: str,
    live: Live | None,
) -> BeamStep:
    """Returns the best beams; see `kernels.head_beam_step.head_beam_step`."""
    logits = logits_of(hidden.reshape(-1, hidden.shape[-1]), head)
    logits = logits.reshape(*hidden.shape[:2], -1)
    if normalize == "children":
        # The others are not computed elsewhere, so here they must not break a row either.
        child = trie.children(beams.node, level)
        b, m = jnp.indices(beams.node.shape, dtype=jnp.int32)
        column = jnp.where(child.valid, child.token, head.shape[0])
        is_child = jnp.zeros(logits.shape, bool)
        is_child = is_child.at[b[..., None], m[..., None], column].set(True, mode="drop")
        logits = jnp.where(is_child, logits, -jnp.inf)
    return reference.beam_step(
        logits,
        beams,
        trie,
        level,
        num_beams=num_beams,
        normalize=normalize,
        log_normalizer=None,
        live=live,
    )
