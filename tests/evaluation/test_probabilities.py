"""How good probabilities are, beside loops and what is known."""

import itertools
import math

import numpy as np
import pytest

from launch.wiring.feed_quality import source_recall
from minirec.evaluation.probabilities import auc, calibration, log_loss


def test_the_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    for _ in range(20):
        score, is_true = rng.integers(0, 5, 12).astype(float), rng.random(12) < 0.4
        pairs = [
            1.0 if a > b else 0.5 if a == b else 0.0
            for a, b in itertools.product(score[is_true], score[~is_true])
        ]
        got = auc(score, is_true)
        if pairs:
            assert got == pytest.approx(np.mean(pairs))
        else:
            assert math.isnan(got)


def test_losses_and_calibration_of_what_is_right_and_of_what_is_not():
    rng = np.random.default_rng(1)
    probability = rng.random(20_000)
    happened = rng.random(20_000) < probability
    right = calibration(probability, happened)
    # A mean of 2,000 draws is within four deviations of .5 / sqrt(2000), and ten are averaged.
    assert right["error"] < 0.045
    assert right["predicted"] == pytest.approx(right["observed"], abs=0.02)
    wrong = calibration(probability / 2, happened)
    assert wrong["error"] == pytest.approx(0.25, abs=0.03)
    assert log_loss(probability, happened) < log_loss(probability / 2, happened)
    assert log_loss(np.array([0.25, 0.5]), np.array([True, False])) == pytest.approx(
        -(math.log(0.25) + math.log(0.5)) / 2
    )
    weighted = log_loss(np.array([0.25, 0.5]), np.array([True, False]), np.array([3.0, 1.0]))
    assert weighted == pytest.approx(-(3 * math.log(0.25) + math.log(0.5)) / 4)
    assert log_loss(np.array([0.0]), np.array([True])) < 20
    assert math.isnan(log_loss(np.zeros(0), np.zeros(0, bool)))
    assert math.isnan(calibration(np.zeros(0), np.zeros(0, bool))["error"])


def test_a_source_is_worth_what_no_other_names():
    target = np.array([1, 2, 3, 4])
    lists = {
        "a": np.array([[1, 9], [2, 9], [8, 9], [-1, -1]]),
        "b": np.array([[1], [5], [3], [-1]]),
    }
    found = source_recall(lists, target, np.array([True, True, False, False]))
    assert found["a"] == {
        "size": 2, "recall": 0.5, "recall_of_new": 1.0, "alone": 0.25, "alone_of_new": 0.5
    }  # fmt: skip
    assert found["b"]["alone"] == 0.25
    assert found["b"]["alone_of_new"] == 0.0
    assert found["together"] == {"size": 3, "recall": 0.75, "recall_of_new": 1.0}
