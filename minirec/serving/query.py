"""What is asked of a model, in the catalogue's item ids, and what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Int32


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """One user's question.

    Attributes:
        history: item ids, oldest first; it may be empty.
        excluded: item ids that must not be recommended; those of the history are among them where
            they shall not come again.
        rank_by: a name of `minirec.recommend.sources`.
        explain: whether the answer says how it came about.
    """

    history: Int32[np.ndarray, " H"]
    excluded: Int32[np.ndarray, " E"]
    rank_by: str
    explain: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Level:
    """The beams of one user after a level of the search, best first.

    Attributes:
        sid: `[M, l]`, the tokens that each has written.
        score: `[M]`, log-probabilities; -inf where a beam is dead.
        children: `[M]`, how many tokens the catalogue has behind it (of a leaf: 0).
        allowed: `[M]`, how many of them lead to an item that the filters allow.
    """

    sid: Int32[np.ndarray, "M l"]
    score: Float[np.ndarray, " M"]
    children: Int32[np.ndarray, " M"]
    allowed: Int32[np.ndarray, " M"]


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """How an answer came about.

    Attributes:
        sources: by name of the source, (item ids, probabilities) as it lists them, best first.
        levels: the search, level by level.
    """

    sources: Mapping[str, tuple[Int[np.ndarray, " K"], Float[np.ndarray, " K"]]]
    levels: tuple[Level, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What is recommended, best first.

    Attributes:
        item: item ids, without gaps.
        score: log-probabilities; -inf where that is of 0.
        explanation: where it was asked for.
    """

    item: Int32[np.ndarray, " K"]
    score: Float[np.ndarray, " K"]
    explanation: Explanation | None = None
