"""How good probabilities are: as an order, as a forecast, and on average."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

_LEAST = 1e-7  # of a probability, so that one mistake does not decide a sum of logarithms


def auc(score: Float[np.ndarray, " n"], is_true: Bool[np.ndarray, " n"]) -> float:
    """Returns how often what is true has the higher score than what is not; a tie counts half.

    NaN where one of the two kinds is missing.
    """
    number = int(is_true.sum())
    others = len(is_true) - number
    if not number or not others:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[is_true].sum() - number * (number + 1) / 2) / (number * others))


def log_loss(
    probability: Float[np.ndarray, " n"],
    is_true: Bool[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None = None,
) -> float:
    """Returns the mean of `-log` of the probability of what happened; NaN of nothing."""
    if not len(probability):
        return float("nan")
    kept = np.clip(probability.astype(np.float64), _LEAST, 1 - _LEAST)
    loss = -np.where(is_true, np.log(kept), np.log1p(-kept))
    return float(np.average(loss, weights=weight))


def calibration(
    probability: Float[np.ndarray, " n"],
    is_true: Bool[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None = None,
    *,
    bins: int = 10,
) -> dict[str, float]:
    """Returns the mean `predicted` and `observed`, and the `error`.

    The error is the mean distance between the two within bins of about the same weight, by
    probability (the expected calibration error). NaN of nothing.

    Args:
        probability: that something happens.
        is_true: whether it did.
        weight: how much each counts; None: the same.
        bins: how many.
    """
    weight = np.ones(len(probability)) if weight is None else weight
    total = weight.sum()
    if not total > 0:
        return dict.fromkeys(("predicted", "observed", "error"), float("nan"))
    order = np.argsort(probability, kind="stable")
    predicted = (probability * weight)[order].astype(np.float64)
    observed = (is_true * weight)[order].astype(np.float64)
    place = np.minimum((np.cumsum(weight[order]) - 1e-9) / total * bins, bins - 1).astype(int)
    both = np.bincount(place, predicted - observed, minlength=bins)
    return {
        "predicted": float(predicted.sum() / total),
        "observed": float(observed.sum() / total),
        "error": float(np.abs(both).sum() / total),
    }
