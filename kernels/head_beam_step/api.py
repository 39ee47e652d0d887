"""The fused head's public function: checks its arguments, picks an implementation, runs it."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels import dispatch
from kernels.beam_step.api import check_search, check_vocabulary
from kernels.beam_step.types import Beams, BeamStep
from kernels.dispatch import Implementation
from kernels.trie import Live, Trie

# Best first, as for the beam step.
IMPLEMENTATIONS: dict[str, Implementation] = {
    "pallas_tpu": Implementation("kernels.head_beam_step.pallas_tpu.step", platforms=("tpu",)),
    "xla": Implementation("kernels.head_beam_step.xla", platforms=("cpu", "gpu", "tpu")),
    "reference": Implementation("kernels.head_beam_step.reference", platforms=()),
}


def head_beam_step(
    hidden: Float[Array, "B M D"],
    head: Float[Array, "V D"],
    beams: Beams | BeamStep,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    normalize: str = "vocab",
    live: Live | None = None,
    implementation: str | None = None,
) -> BeamStep:
    """Returns `beam_step(hidden @ head.T, …)` without storing the logits `[B, M, V]`.

    For heads of many rows, such as a language model's. The logits of a block of the vocabulary are
    computed, reduced to their log-sum-exp and searched for the children's, block by block; with
    `normalize="children"` only the children's rows of the head are read. The logits are sums in
    float32, of products in float32 where the factors are float32. Sums may run in another order
    than those of `hidden @ head.T`, and the scores differ by that much. It is made for searching;
    to train through the scores, which needs all the logits' gradients, take `beam_step`.

    Beams, ties and dead beams are as in `beam_step`. NaN or `+inf` among a beam's logits kills its
    continuations and touches no other beam; with `normalize="children"`, where the other logits
    are not computed, among those of its node's children.

    Args:
        hidden: float32 or bfloat16 `[B, M, D]`: each beam's last hidden state.
        head: `[V, D]`, of the same dtype: one row a token. A bias is one more column, with ones
            in `hidden`.
        beams: as in `beam_step`.
        trie: as in `beam_step`.
        level: as in `beam_step`.
        num_beams: as in `beam_step`.
        normalize: as in `beam_step`.
        live: as in `beam_step`.
        implementation: a name of this operation's `IMPLEMENTATIONS`; None picks as in `beam_step`.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value; before anything is compiled.
        UnsupportedError: the implementation asked for is not made for these arguments.
    """
    candidates = dispatch.candidates(IMPLEMENTATIONS, implementation)
    dtypes = (jnp.float32, jnp.bfloat16)
    hidden = dispatch.array("hidden", hidden, ("B", "M", "D"), dtypes)
    head = dispatch.array("head", head, ("V", "D"), dtypes)
    if head.shape[1] != hidden.shape[2] or head.dtype != hidden.dtype:
        raise ValueError(
            f"head: {head.dtype} {head.shape}; it must be {hidden.dtype} [V, {hidden.shape[2]}], "
            "as hidden is"
        )
    beams, level, num_beams = check_search(hidden, beams, trie, level, num_beams, live)
    check_vocabulary("head", head.shape[0], trie, level, normalize)
    return dispatch.run(
        IMPLEMENTATIONS,
        candidates,
        lambda module: module.head_beam_step(
            hidden,
            head,
            beams,
            trie,
            level,
            num_beams=num_beams,
            normalize=normalize,
            live=live,
        ),
    )
