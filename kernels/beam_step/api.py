"""The beam step's public functions: check the arguments, pick an implementation, run it."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from kernels import dispatch
from kernels.beam_step import gradient
from kernels.beam_step.types import Beams, BeamStep
from kernels.dispatch import Implementation
from kernels.trie import Live, Trie
from kernels.trie import live as trie_live

NORMALIZE = ("vocab", "children")
"""What a row of logits may be normalised over; see `beam_step`."""


# Best first. A backend raises UnsupportedError for what it does not do, and the next is tried.
IMPLEMENTATIONS: dict[str, Implementation] = {
    "pallas_tpu": Implementation("kernels.beam_step.pallas_tpu.step", platforms=("tpu",)),
    "triton_gpu": Implementation("kernels.beam_step.triton_gpu.step", platforms=("gpu",)),
    "xla": Implementation("kernels.beam_step.xla", platforms=("cpu", "gpu", "tpu")),
    "reference": Implementation("kernels.beam_step.reference", platforms=()),
}


def default_implementation(platform: str | None = None) -> str:
    """Returns the name of the implementation that is tried first.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`; the platform of JAX's default backend if None.

    Raises:
        ValueError: no implementation is made for this platform.
    """
    return dispatch.candidates(IMPLEMENTATIONS, None, platform)[0]


def beam_step(
    logits: Float[Array, "B M V"],
    beams: Beams | BeamStep,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    normalize: str = "vocab",
    log_normalizer: Float32[Array, "B M"] | None = None,
    live: Live | None = None,
    implementation: str | None = None,
) -> BeamStep:
    """Returns the best `num_beams` continuations of a batch's beams that the trie allows.

    A candidate is a child of a beam's node. Its score is, in float32 and in this order,
    `parent score + (logit - log normaliser)`. Best score first; ties go to the lower parent, then
    to the lower token. Where candidates are fewer than `num_beams`, the rest are dead beams.
    Arrays may be NumPy's, of the dtypes named.

    NaN or `+inf` anywhere in a beam's row of logits, or a log normaliser that is not finite, kills
    that beam's continuations and touches no other beam; so does a beam's own score that is not
    finite. A candidate whose score is not finite, as after a logit of `-inf`, is dead. A token past
    the row's end (`>= V`) has no logit and is not a candidate.

    The scores are differentiable in the logits, `beams.score` and `log_normalizer`, whichever
    implementation runs, in reverse mode; dead beams have the gradient zero, and so have broken
    rows.

    Args:
        logits: float32 or bfloat16 `[B, M, V]`, not normalised; taken to float32 first.
        beams: the `M` beams of each user, of depth `level`: `Beams.root(B)` to start, then the
            last step's `BeamStep`, or anything else with its `node` and `score`.
        trie: the catalogue.
        level: static, in `[0, L)`: the level of the token that is appended.
        num_beams: static, at least 1: beams to return; may exceed the number of candidates.
        normalize: what a row's log-probabilities are normalised over: `"vocab"`, the whole row (as
            MiniOneRec and STATIC do), or `"children"`, the children of the beam's node, whether
            `live` or not.
        log_normalizer: float32 `[B, M]`: used instead of the whole row's log-sum-exp, for a head
            that knows it already. Only with `normalize="vocab"`.
        live: nodes that still hold an allowed item for this request, from `trie.live` or
            `trie.live_excluding`. Removes candidates, never changes the normaliser.
        implementation: a name of `IMPLEMENTATIONS`; None picks the best for JAX's default backend,
            and passes on to the next where one is not made for these arguments.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value; before anything is compiled.
        UnsupportedError: the implementation asked for is not made for these arguments.
    """
    candidates = dispatch.candidates(IMPLEMENTATIONS, implementation)
    logits = dispatch.array("logits", logits, ("B", "M", "V"), (jnp.float32, jnp.bfloat16))
    beams, level, num_beams = check_search(logits, beams, trie, level, num_beams, live)
    check_vocabulary("logits", logits.shape[-1], trie, level, normalize)
    if log_normalizer is not None:
        if normalize != "vocab":
            raise ValueError(
                f"log_normalizer: given with normalize={normalize!r}, which makes its own; it goes "
                "with normalize='vocab'"
            )
        log_normalizer = dispatch.array(
            "log_normalizer", log_normalizer, ("B", "M"), (jnp.float32,)
        )
        if log_normalizer.shape != logits.shape[:2]:
            raise ValueError(
                f"log_normalizer: shape {log_normalizer.shape}; the logits need {logits.shape[:2]}"
            )
    return dispatch.run(
        IMPLEMENTATIONS,
        candidates,
        lambda module: gradient.beam_step(
            module.beam_step,
            logits,
            beams,
            trie,
            level,
            num_beams=num_beams,
            normalize=normalize,
            log_normalizer=log_normalizer,
            live=live,
        ),
    )


def beam_select(
    candidate_log_probs: Float32[Array, "B M C"],
    beams: Beams | BeamStep,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    live: Live | None = None,
    implementation: str | None = None,
) -> BeamStep:
    """Returns the best `num_beams` continuations, given their log-probabilities.

    The second half of `beam_step`, for heads that compute the children's logits only. Scores,
    ties, dead beams and `live` are as there. NaN or `+inf` among the log-probabilities of a node's
    children kills that beam's continuations; columns without a child are not read.

    Args:
        candidate_log_probs: float32 `[B, M, C]`, aligned with `trie.children(beams.node, level)`.
        beams: as in `beam_step`.
        trie: as in `beam_step`.
        level: as in `beam_step`.
        num_beams: as in `beam_step`.
        live: as in `beam_step`.
        implementation: as in `beam_step`.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value; before anything is compiled.
        UnsupportedError: the implementation asked for is not made for these arguments.
    """
    candidates = dispatch.candidates(IMPLEMENTATIONS, implementation)
    log_probs = dispatch.array(
        "candidate_log_probs", candidate_log_probs, ("B", "M", "C"), (jnp.float32,)
    )
    beams, level, num_beams = check_search(log_probs, beams, trie, level, num_beams, live)
    if log_probs.shape[-1] != trie.max_children(level):
        raise ValueError(
            f"candidate_log_probs: C={log_probs.shape[-1]}; level {level} of this trie has "
            f"C={trie.max_children(level)}"
        )
    return dispatch.run(
        IMPLEMENTATIONS,
        candidates,
        lambda module: gradient.beam_select(
            module.beam_select, log_probs, beams, trie, level, num_beams=num_beams, live=live
        ),
    )


def check_search(
    values: Array,
    beams: Beams | BeamStep,
    trie: Trie,
    level: int,
    num_beams: int,
    live: Live | None,
) -> tuple[Beams, int, int]:
    """Checks what both functions share; returns beams of JAX arrays and Python integers."""
    if not isinstance(trie, Trie):
        raise ValueError(f"trie: a {type(trie).__name__}; it must be a Trie of build_trie")
    if not (hasattr(beams, "node") and hasattr(beams, "score")):
        raise ValueError(f"beams: a {type(beams).__name__}; it must be Beams(node, score)")
    node = dispatch.array("beams.node", beams.node, ("B", "M"), (jnp.int32,))
    score = dispatch.array("beams.score", beams.score, ("B", "M"), (jnp.float32,))
    for name, array in (("beams.node", node), ("beams.score", score)):
        if array.shape != values.shape[:2]:
            raise ValueError(
                f"{name}: shape {array.shape}; [B, M] of the scores given is {values.shape[:2]}"
            )
    level = dispatch.integer("level", level)
    if not 0 <= level < trie.num_levels:
        raise ValueError(f"level: {level}; the trie's levels are 0 to {trie.num_levels - 1}")
    num_beams = dispatch.integer("num_beams", num_beams)
    if num_beams < 1:
        raise ValueError(f"num_beams: {num_beams}; it must be at least 1")
    if live is not None:
        _check_live(live, trie, values.shape[0])
    return Beams(node=node, score=score), level, num_beams


def check_vocabulary(name: str, vocab: int, trie: Trie, level: int, normalize: str) -> None:
    """Checks that an argument has a column for each code of a level, and what is normalised."""
    sizes = trie.capacities.codebook_sizes
    if sizes is not None and vocab < sizes[level]:
        raise ValueError(
            f"{name}: V={vocab}, but the codebook of level {level} has {sizes[level]} codes"
        )
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize: {normalize!r}; it must be one of {', '.join(NORMALIZE)}")


def _check_live(live: Live, trie: Trie, batch: int) -> None:
    if not isinstance(live, Live):
        raise ValueError(
            f"live: a {type(live).__name__}; it must come from trie.live or trie.live_excluding"
        )
    trie_live.check(live, trie, batch)
