"""A killed `launch.train` goes on to the same losses and parameters, with the real loader."""

import dataclasses
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
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


def test_a_run_killed_and_then_stopped_ends_bit_equal_to_one_that_was_not(smoke):
    whole, _ = smoke
    stopped = dataclasses.replace(whole, run=whole.workdir / "runs" / "stopped")
    process = start(stopped)
    wait_for_checkpoint(process, stopped.run, 10)
    process.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, output

    process, seen = start(stopped), []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("train "):  # It has taken a step.
            process.terminate()
            break
    seen += process.stdout
    assert process.wait(timeout=120) == 0, seen
    (reached,) = re.findall(r"stopped by a signal after step (\d+)", "".join(seen))
    assert re.search(r"going on after step [12]0 of 30", "".join(seen))
    assert 10 < int(reached) < 30
    result = train.run_training(stopped)
    assert (result.reason, result.resumed_from) == ("finished", int(reached))

    metrics, parameters = outcome(whole)
    other_metrics, other_parameters = outcome(stopped)
    assert json.dumps(other_metrics) == json.dumps(metrics)
    for one, other in zip(parameters, other_parameters, strict=True):
        assert np.array_equal(one, other)
    shutil.rmtree(stopped.run)
