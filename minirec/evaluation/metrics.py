"""Hit rate and NDCG from the targets' ranks, counted as MiniOneRec counts them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

KS = (1, 3, 5, 10, 20, 50)
"""The list lengths that published work on generative recommenders reports."""


def hit_rate(ranks: Int[np.ndarray, " n"], k: int) -> float:
    """Returns the share of users whose target is among the first `k`; ranks count from 0."""
    return float(hit_gains(ranks, k).mean())


def ndcg(ranks: Int[np.ndarray, " n"], k: int) -> float:
    """Returns the mean over users of `1 / log2(rank + 2)`, or 0 beyond the first `k`.

    With one target a user the ideal gain is 1, so that DCG is NDCG (as in MiniOneRec's `calc.py`).
    """
    return float(ndcg_gains(ranks, k).mean())


def metrics_at(ranks: Int[np.ndarray, " n"], ks: Sequence[int] = KS) -> dict[str, float]:
    """Returns `{"hr@1": …, "ndcg@1": …, "hr@3": …}`.

    Args:
        ranks: place of each user's target, from 0; -1 where it was not found.
        ks: list lengths, at least 1 each.

    Raises:
        ValueError: no users, or a length below 1.
    """
    check_ranks(ranks)
    metrics = {}
    for k in ks:
        if k < 1:
            raise ValueError(f"ks: {k}; the length of a list must be at least 1")
        metrics[f"hr@{k}"] = hit_rate(ranks, k)
        metrics[f"ndcg@{k}"] = ndcg(ranks, k)
    return metrics


def hit_gains(ranks: Int[np.ndarray, " n"], k: int) -> Float[np.ndarray, " n"]:
    """Returns 1 for each user whose target is among the first `k`, else 0."""
    return ((ranks >= 0) & (ranks < k)).astype(np.float64)


def ndcg_gains(ranks: Int[np.ndarray, " n"], k: int) -> Float[np.ndarray, " n"]:
    """Returns each user's `1 / log2(rank + 2)`, 0 where the target is not among the first `k`."""
    return hit_gains(ranks, k) / np.log2(np.maximum(ranks, 0) + 2.0)


def check_ranks(ranks: Int[np.ndarray, " n"]) -> None:
    """Raises ValueError unless `ranks` holds at least one user and nothing below -1."""
    if ranks.ndim != 1 or len(ranks) == 0:
        raise ValueError(f"ranks: shape {list(ranks.shape)}; must be [n] with at least one user")
    if int(ranks.min()) < -1:
        raise ValueError(f"ranks: {int(ranks.min())} is not a rank; must be -1 (not found) or more")
