"""Real processes, really killed."""

import multiprocessing
import multiprocessing.forkserver
import os
import random
import signal

import numpy as np
import pytest
from flax import nnx

from minirec.training import load_best, load_last, read_metrics, without_wall_clock
from tests.training.tiny import TinyModel, run, run_and_tell


@pytest.fixture(scope="module")
def processes():
    """Splits processes off one that has imported JAX, which has no threads then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run.__module__])
    yield context
    multiprocessing.forkserver._forkserver._stop()


def strike(processes, folder, moment, number):
    """Sends a signal to a run as soon as `moment()` is true; returns its exit code."""
    process = processes.Process(target=run_and_tell, args=[folder], daemon=True)
    process.start()
    while not moment():
        process.join(0.001)
        assert process.exitcode is None, "ended before its moment"
    os.kill(process.pid, number)
    process.join(120)
    return process.exitcode


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


def test_a_run_stopped_several_times_is_bit_equal_to_one_never_stopped(
    tmp_path, uninterrupted, processes
):
    folder = tmp_path / "stopped"
    anywhere = random.Random(7).randrange(1, 9)
    moments = [
        lambda: lines(folder) >= anywhere,
        lambda: lines(folder) >= 9 and saving(folder, "last"),
        lambda: lines(folder) >= 18 and saving(folder, "best"),
    ]
    for moment in moments:
        assert strike(processes, folder, moment, signal.SIGKILL) == -signal.SIGKILL
        assert read_metrics(folder)[-1]["kind"] != "final"

    # SIGTERM leaves a checkpoint of the very step and exits with 0.
    assert strike(processes, folder, lambda: lines(folder) >= 24, signal.SIGTERM) == 0
    reason, step = (tmp_path / "stopped.txt").read_text().split()
    assert reason == "interrupted"
    assert step in os.listdir(folder / "checkpoints" / "last")

    assert run(folder) == "finished 100"
    assert_equal_runs(folder, uninterrupted)
    assert not saving(folder, "last")
    assert not saving(folder, "best")
