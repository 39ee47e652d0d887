"""A killed `launch.train` goes on to the same losses and parameters, with the real loader."""

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

from launch import make_sids, prepare
from launch.wiring import catalogue, program, sid
from minirec.training import load_last, read_metrics, without_wall_clock

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    prepare.main(job(folder, "x"))
    make_sids.make(job(folder, "x"))
    return folder


def job(workdir, run):
    config = program.load_config_module("quickstart").get_config("smoke")
    return program.Job(config, workdir, workdir / "runs" / run)


def start(workdir, run):
    command = [sys.executable, "-m", "launch.train", "--config=quickstart:smoke"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", f"--run={run}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for_checkpoint(process, run_folder, step):
    """Returns once a checkpoint of `step` stands; fails if the process ends before."""
    deadline = time.monotonic() + 240
    while not (run_folder / "checkpoints" / "last" / str(step)).is_dir():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def outcome(workdir, run):
    this = job(workdir, run)
    loaded = sid.load_catalogue(catalogue.load_prepared(this), this.run)
    empty = nnx.eval_shape(lambda: sid.new_model(this.config, loaded))
    model = load_last(this.run, empty)
    metrics = [without_wall_clock(row) for row in read_metrics(this.run)]
    return metrics, jax.tree.leaves(nnx.state(model))


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_ends_bit_equal_to_one_that_was_not(workdir, stop):
    if not (workdir / "runs" / "whole").exists():
        finish(start(workdir, "whole"))
    run = f"stopped_{stop.name}"
    process = start(workdir, run)
    wait_for_checkpoint(process, workdir / "runs" / run, 10)
    process.send_signal(stop)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (0 if stop == signal.SIGTERM else -signal.SIGKILL), output
    reached = [row["step"] for row in read_metrics(workdir / "runs" / run)]
    assert max(reached, default=0) < 30, "it was not stopped before its end"
    finish(start(workdir, run))

    metrics, parameters = outcome(workdir, "whole")
    other_metrics, other_parameters = outcome(workdir, run)
    assert json.dumps(other_metrics) == json.dumps(metrics)
    for one, other in zip(parameters, other_parameters, strict=True):
        assert np.array_equal(one, other)
    shutil.rmtree(workdir / "runs" / run)
