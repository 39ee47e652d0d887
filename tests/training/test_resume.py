"""Real processes, really killed."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx

from minirec.training import load_best, load_last, read_metrics, without_wall_clock
from tests.training.tiny import TinyModel, run

PROGRAM = pathlib.Path(__file__).with_name("tiny.py")


def start(folder):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def strike(process, moment, number):
    """Sends a signal as soon as `moment()` is true; returns what the process printed."""
    while not moment():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.001)
            pytest.fail(f"ended before its moment: {process.stderr.read()}")
    process.send_signal(number)
    return process.communicate()[0]


def arrays(folder):
    found = {}
    for name, load in (("best", load_best), ("last", load_last)):
        model = load(folder, nnx.eval_shape(lambda: TinyModel(rngs=nnx.Rngs(0))))
        for path, variable in nnx.to_flat_state(nnx.state(model)):
            found[(name, *path)] = np.asarray(variable[...])
    return found


def assert_equal_runs(folder, other):
    one, two = ([without_wall_clock(x) for x in read_metrics(f)] for f in (folder, other))
    assert one == two
    one, two = arrays(folder), arrays(other)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=str(name))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert run(folder) == "finished 100"
    return folder


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saving(folder, which):
    """Whether a checkpoint is being written: Orbax works in a folder beside its place."""
    place = folder / "checkpoints" / which
    return place.is_dir() and any("tmp" in name for name in os.listdir(place))


def test_a_run_stopped_several_times_is_bit_equal_to_one_never_stopped(tmp_path, uninterrupted):
    folder = tmp_path / "stopped"
    anywhere = random.Random(7).randrange(1, 9)
    moments = [
        lambda: lines(folder) >= anywhere,
        lambda: lines(folder) >= 9 and saving(folder, "last"),
        lambda: lines(folder) >= 18 and saving(folder, "best"),
    ]
    for moment in moments:
        process = start(folder)
        strike(process, moment, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert read_metrics(folder)[-1]["kind"] != "final"

    # SIGTERM leaves a checkpoint of the very step and exits with 0.
    process = start(folder)
    output = strike(process, lambda: lines(folder) >= 24, signal.SIGTERM)
    assert process.returncode == 0
    assert output.startswith("interrupted")
    assert output.split()[1] in os.listdir(folder / "checkpoints" / "last")

    assert run(folder) == "finished 100"
    assert_equal_runs(folder, uninterrupted)
    assert not saving(folder, "last")
    assert not saving(folder, "best")
