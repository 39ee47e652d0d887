"""Bootstrap percentile intervals over users.

A resample of users matters only through how many of them have which rank, and those counts are
multinomial. So the counts are drawn directly: the same distribution as drawing users one by one,
in memory that does not grow with the number of users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from minirec.evaluation import metrics

_Gain = Callable[[Int[np.ndarray, " n"], int], Float[np.ndarray, " n"]]
_GAINS: dict[str, _Gain] = {"hr": metrics.hit_gains, "ndcg": metrics.ndcg_gains}


def bootstrap_intervals(
    ranks: Int[np.ndarray, " n"],
    ks: Sequence[int] = metrics.KS,
    *,
    seed: int = 0,
    num_resamples: int = 1000,
    level: float = 0.95,
    users: Int[np.ndarray, " n"] | None = None,
) -> dict[str, list[float]]:
    """Returns `{"hr@10": [low, high], …}`: percentile intervals over resampled users.

    Args:
        ranks: place of each user's target, from 0; -1 where it was not found.
        ks: list lengths.
        seed: the same seed gives the same intervals.
        num_resamples: how many times users are drawn with replacement.
        level: coverage wanted.
        users: `[n]`, whose each rank is, where a user has several: users are drawn with all theirs.
            None: each is a user's own.

    Raises:
        ValueError: no users, or a level outside (0, 1).
    """
    metrics.check_ranks(ranks)
    if users is not None:
        clipped = _clip(ranks, ks)
        return {
            f"{name}@{k}": _by_user(gain(clipped, k), users, seed, num_resamples, level)
            for k in ks
            for name, gain in _GAINS.items()
        }
    values, counts = np.unique(_clip(ranks, ks), return_counts=True)
    draws = _draw(counts, seed, num_resamples)
    return {
        f"{name}@{k}": _percentiles(draws @ gain(values, k) / len(ranks), level)
        for k in ks
        for name, gain in _GAINS.items()
    }


def difference_intervals(
    ranks: Int[np.ndarray, " n"],
    other_ranks: Int[np.ndarray, " n"],
    ks: Sequence[int] = metrics.KS,
    *,
    seed: int = 0,
    num_resamples: int = 1000,
    level: float = 0.95,
    users: Int[np.ndarray, " n"] | None = None,
) -> dict[str, list[float]]:
    """Returns `{"hr@10": [low, high], …}` of the first metric minus the second, users paired.

    Both recommenders answered the same users, so each resample draws the same users for both: the
    interval of the difference is narrower than two separate intervals suggest. `users` is as for
    `bootstrap_intervals`.

    Raises:
        ValueError: no users, or not the same number of them.
    """
    metrics.check_ranks(ranks)
    metrics.check_ranks(other_ranks)
    if len(ranks) != len(other_ranks):
        raise ValueError(f"other_ranks: {len(other_ranks)} users, but ranks has {len(ranks)}")
    if users is not None:
        one, other = _clip(ranks, ks), _clip(other_ranks, ks)
        return {
            f"{name}@{k}": _by_user(
                gain(one, k) - gain(other, k), users, seed, num_resamples, level
            )
            for k in ks
            for name, gain in _GAINS.items()
        }
    pairs = np.stack([_clip(ranks, ks), _clip(other_ranks, ks)], axis=1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    draws = _draw(counts, seed, num_resamples)
    return {
        f"{name}@{k}": _percentiles(
            draws @ (gain(pairs[:, 0], k) - gain(pairs[:, 1], k)) / len(ranks), level
        )
        for k in ks
        for name, gain in _GAINS.items()
    }


def _by_user(
    gains: Float[np.ndarray, " n"],
    users: Int[np.ndarray, " n"],
    seed: int,
    num_resamples: int,
    level: float,
) -> list[float]:
    """Returns the interval of the mean gain over users that are drawn with all their ranks."""
    _, user = np.unique(users, return_inverse=True)
    total, number = np.bincount(user, gains), np.bincount(user).astype(np.float64)
    draws = _draw(np.ones(len(number), np.int64), seed, num_resamples)
    return _percentiles((draws @ total) / (draws @ number), level)


def _clip(ranks: Int[np.ndarray, " n"], ks: Sequence[int]) -> Int[np.ndarray, " n"]:
    """Returns the ranks with everything beyond the longest list as -1: fewer distinct values."""
    return np.where(ranks >= max(ks), -1, ranks)


def _draw(counts: Int[np.ndarray, " R"], seed: int, num_resamples: int) -> Int[np.ndarray, "S R"]:
    generator = np.random.default_rng(seed)
    total = int(counts.sum())
    return generator.multinomial(total, counts / total, size=num_resamples)


def _percentiles(samples: Float[np.ndarray, " S"], level: float) -> list[float]:
    if not 0 < level < 1:
        raise ValueError(f"level: {level}; must lie between 0 and 1")
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return [float(low), float(high)]
