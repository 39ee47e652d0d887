"""Several rankings as one, by the reciprocals of ranks (Cormack et al., SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int
from numpy import ndarray


def reciprocal_rank(
    lists: Sequence[Int[ndarray, " n"]], constant: float = 60.0
) -> list[tuple[int, float]]:
    """Returns what the lists rank and its score, best first; ties go to the lower number.

    The score is the sum of `1 / (constant + rank)` over the lists that have it, ranks from 1.

    Args:
        lists: numbers, best first; -1 is nobody.
        constant: how little the first places count more than those behind them.

    Raises:
        ValueError: a constant below 0.
    """
    if not constant >= 0:
        raise ValueError(f"rank_constant={constant!r}: must be 0 or more")
    scores: dict[int, float] = {}
    for ranking in lists:
        for rank, number in enumerate(ranking.tolist(), start=1):
            if number >= 0:
                scores[number] = scores.get(number, 0.0) + 1.0 / (constant + rank)
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
