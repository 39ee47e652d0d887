"""Mask rules: which token of a row may attend to which.

A rule is a small pytree that turns the segment ids of a packed row into a mask; it carries what
else it needs. Three things hold for every rule: nothing crosses segments, segment 0 is padding
and seen by nobody else, and a token always sees itself, so that no row of a softmax is empty.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@runtime_checkable
class MaskRule(Protocol):
    """What the trunk asks of a mask rule."""

    def __call__(self, segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
        """Returns whether the token in the second axis may attend to the one in the third."""
        ...


def _within_segment(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return same & (segment_ids != 0)[:, None, :]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CausalMask:
    """A token sees itself and the earlier tokens of its segment."""

    def __call__(self, segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
        """Returns the mask of a batch of packed rows."""
        T = segment_ids.shape[1]
        causal = jnp.tril(jnp.ones((T, T), bool))
        return _within_segment(segment_ids) & causal | jnp.eye(T, dtype=bool)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IsolatedCandidatesMask:
    """A ranker's rule: a candidate sees the history and itself, never another candidate.

    So the scores of one row's candidates do not depend on each other: candidate isolation, as in
    the ranker of xai-org/x-algorithm.

    Attributes:
        candidate_ids: `[B, T]` int; 0 for the tokens of the history, and 1, 2, … for the tokens of
            the first, second, … candidate. A candidate may be several tokens long: it is causal
            within itself. Candidates stand behind the history in their row.
    """

    candidate_ids: Int[Array, "B T"]

    def __call__(self, segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
        """Returns the mask of a batch of packed rows."""
        query, key = self.candidate_ids[:, :, None], self.candidate_ids[:, None, :]
        return CausalMask()(segment_ids) & ((key == 0) | (key == query))
