"""The head of a search: from hidden states to the best beams, with or without stored logits."""

from __future__ import annotations

import functools

import jax
from jaxtyping import Array, Float

from kernels.beam_step import IMPLEMENTATIONS as PLAIN_IMPLEMENTATIONS
from kernels.beam_step import Beams, BeamStep, beam_step
from kernels.head_beam_step import IMPLEMENTATIONS as FUSED_IMPLEMENTATIONS
from kernels.head_beam_step import head_beam_step
from kernels.trie import Live, Trie
from minirec.decoding.state import SearchModel

HEADS = ("plain", "fused")
"""How a head is read: "plain" stores the logits `[B, M, V]`, "fused" never does."""

_FUSED_FROM = 8192  # tokens of the vocabulary


def check_head(head: str | None, implementation: str | None) -> None:
    """Checks that a head is known and has the implementation asked for.

    Raises:
        ValueError: it is none of `HEADS`, or lacks the implementation.
    """
    if head is not None and head not in HEADS:
        raise ValueError(f"head={head!r} must be None or one of {', '.join(HEADS)}")
    known = FUSED_IMPLEMENTATIONS if head == "fused" else PLAIN_IMPLEMENTATIONS
    if implementation is not None and implementation not in known:
        raise ValueError(
            f"implementation={implementation!r} must be None or one of {', '.join(sorted(known))}"
            + (" where head='fused'" if head == "fused" else "")
        )


def choose_head(model: SearchModel, head: str | None, implementation: str | None) -> str:
    """Returns which of `HEADS` a search with this model takes.

    Args:
        model: its `head_rows()` are the fused head's; without them only the plain one works.
        head: one of `HEADS`, or None for the fused one where the vocabulary is so large that it
            pays and where it has the implementation asked for.
        implementation: of the step.

    Raises:
        ValueError: as `check_head`, or the fused head is asked of a model without `head_rows()`.
    """
    check_head(head, implementation)
    rows = getattr(model, "head_rows", None)
    if head == "fused" and rows is None:
        raise ValueError(f"head='fused', but a {type(model).__name__} has no head_rows()")
    if head is not None:
        return head
    can = rows is not None and implementation in (None, *FUSED_IMPLEMENTATIONS)
    return "fused" if can and jax.eval_shape(rows).shape[0] >= _FUSED_FROM else "plain"


def head_step(
    model: SearchModel,
    hidden: Float[Array, "B M D"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    normalize: str,
    live: Live | None,
    head: str | None,
    implementation: str | None,
) -> BeamStep:
    """Returns the best beams that grow from `hidden`, each beam's last hidden state.

    Arguments and errors as in `choose_head` and `kernels.beam_step.beam_step`.
    """
    if choose_head(model, head, implementation) == "plain":
        step = functools.partial(beam_step, model.logits(hidden))
    else:
        step = functools.partial(head_beam_step, hidden, model.head_rows().astype(hidden.dtype))
    return step(
        beams,
        trie,
        level,
        num_beams=num_beams,
        normalize=normalize,
        live=live,
        implementation=implementation,
    )
