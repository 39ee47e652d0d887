"""Fractional loss masks: a weighted mean over the step, whatever it is cut into."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.bounds import assert_close, log_softmax_roundings
from tests.training import weighted

# The logarithms of p, a softmax of 4, sums over 8 tokens and 4 parts, a ratio; a norm of 4.
ROUNDINGS = 4 + log_softmax_roundings(4) + 8 + 4 + 1 + 4 + 1


@pytest.fixture(scope="module")
def expected():
    """By hand: p is (1, 2, 3, 2) / 8; weights .25, .75 + 1 and 3 lie on the tokens 0, 1 and 3."""
    loss = (0.25 * np.log(8) + 1.75 * np.log(4) + 3 * np.log(4)) / 5
    # Of a softmax: p minus each token's share of the weights.
    gradient = np.array([1, 2, 3, 2]) / 8 - np.array([0.25, 1.75, 0, 3]) / 5
    return [loss, 5.0, np.sqrt((gradient**2).sum())]


# The last of four parts has no weight at all, the others 1, 3 and 1.
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_step_takes_the_weighted_mean_of_all_its_parts(expected, accumulate):
    assert_close(weighted.step(accumulate=accumulate), expected, ROUNDINGS, scale=expected)


def test_two_processes_take_the_weighted_mean_of_both_slices(expected):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(pathlib.Path(weighted.__file__)), str(index), address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=kept,
        )
        for index in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert_close(json.loads(out.splitlines()[-1]), expected, ROUNDINGS, scale=expected)
