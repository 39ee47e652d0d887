"""A killed `launch.train` goes on to the same losses and parameters, with the real loader."""

import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from flax import nnx

from launch import train
from launch.wiring import catalogue, sid
from minirec.training import load_last, read_metrics, without_wall_clock

ROOT = pathlib.Path(__file__).parent.parent.parent


def start(job):
    """Starts the training of the job of `smoke` in a process of its own."""
    command = [sys.executable, "-m", "launch.train", "--config=quickstart:smoke"]
    return subprocess.Popen(
        [
            *(*command, f"--workdir={job.workdir}", f"--run={job.run.name}"),
            f"--config.loader.max_items={job.config.loader.max_items}",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_checkpoint(process, run_folder, step):
    """Returns once a checkpoint of `step` stands; fails if the process ends before."""
    deadline = time.monotonic() + 240
    while not (run_folder / "checkpoints" / "last" / str(step)).is_dir():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def outcome(job):
    loaded = sid.load_catalogue(catalogue.load_prepared(job), job.run)
    empty = nnx.eval_shape(lambda: sid.new_model(job.config, loaded))
    model = load_last(job.run, empty)
    metrics = [without_wall_clock(row) for row in read_metrics(job.run)]
    return metrics, jax.tree.leaves(nnx.state(model))


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_ends_bit_equal_to_one_that_was_not(smoke, stop):
    whole, _ = smoke
    stopped = dataclasses.replace(whole, run=whole.workdir / "runs" / f"stopped_{stop.name}")
    process = start(stopped)
    wait_for_checkpoint(process, stopped.run, 10)
    process.send_signal(stop)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (0 if stop == signal.SIGTERM else -signal.SIGKILL), output
    reached = [row["step"] for row in read_metrics(stopped.run)]
    assert max(reached, default=0) < 30, "it was not stopped before its end"
    assert train.run_training(stopped).reason == "finished"

    metrics, parameters = outcome(whole)
    other_metrics, other_parameters = outcome(stopped)
    assert json.dumps(other_metrics) == json.dumps(metrics)
    for one, other in zip(parameters, other_parameters, strict=True):
        assert np.array_equal(one, other)
    shutil.rmtree(stopped.run)
