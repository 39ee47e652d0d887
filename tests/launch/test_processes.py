"""Two real processes, joined by `jax.distributed`, do the work of one."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from launch import evaluate, make_sids, prepare, train
from launch.wiring import program, training
from minirec.training import read_metrics, without_wall_clock
from tests.bounds import gamma
from tests.ports import free_port

ROOT = pathlib.Path(__file__).parent.parent.parent
CHANGES = {
    "train.num_steps": 6,
    "train.eval_every": 6,
    "train.log_every": 1,
    "model.dropout": 0.1,
    # Prompts of one width and few beams are one search to compile.
    "loader.max_items": 4,
    "search.num_beams": 10,
    "evaluate.test_users": 64,
    "evaluate.valid_users": 64,
    "evaluate.fusion_users": 64,
    "evaluate.resamples": 10,
}


# Sums over rows, and gradients' norms over some 80,000 parameters, are made in another order. A
# step moves parameters off by the learning rate, .005, times the share that their gradients are
# off, which is 1.4 times that share for all of them together; six steps come on top of each other.
BOUND = 2 * 6 * (1 + 1.4) * gamma(80_000)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    config = program.load_config_module("quickstart").get_config("smoke")
    config.update_from_flattened_dict(CHANGES)
    workdir = tmp_path_factory.mktemp("processes")
    job = program.Job(config, workdir, workdir / "runs" / "one")
    prepare.main(job)
    make_sids.make(job)
    return job


def launch_two(program_path, job, run, *arguments):
    """Starts two processes with a mesh over both; returns exit codes, outputs and errors."""
    changes = [f"--config.{name}={value}" for name, value in CHANGES.items()]
    together = [f"--coordinator_address=localhost:{free_port()}", "--num_processes=2"]
    flags = ["--config=quickstart:smoke", f"--workdir={job.workdir}", f"--run={run}", *changes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, *program_path, *flags, *together, f"--process_id={i}", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        done = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], *zip(*done, strict=True)


def test_two_processes_train_stop_go_on_and_evaluate_as_one(job):
    program_path = [str(pathlib.Path(__file__).with_name("two_processes.py"))]
    codes, outputs, errors = launch_two(program_path, job, "two", "--config.mesh.fsdp=2")
    assert codes == [0, 0], errors
    # A signal to one process stopped both, at the same step, and the state was saved.
    reasons = re.findall(r"reason=(\w+)", outputs[0])
    assert reasons == ["interrupted", "finished"]
    (stopped,) = re.findall(r"stopped by a signal after step (\d)", errors[0])
    assert 3 <= int(stopped) < 6
    # Only the first prints; Gloo, which connects CPUs, tells of itself.
    assert not [line for line in outputs[1].splitlines() if not line.startswith("[Gloo]")]

    expected = train.run_training(job)
    report = evaluate.run_evaluation(job)
    assert re.search(r"^hr@10=\S+", outputs[0], re.MULTILINE)
    assert f"hr@10={report.model.metrics['item']['hr@10']:.4f}" in outputs[0].splitlines()
    assert f"best_ndcg@10={expected.best_metric:.4f}" in outputs[0].splitlines()
    found = [without_wall_clock(line) for line in read_metrics(job.workdir / "runs" / "two")]
    whole = [without_wall_clock(line) for line in read_metrics(job.run)]
    assert [line["kind"] for line in found] == [line["kind"] for line in whole]
    for one, two in zip(whole, found, strict=True):
        for name, value in one.items():
            if isinstance(value, float) and one["kind"] == "train":
                value = pytest.approx(value, rel=BOUND)
            assert two[name] == value, (one["kind"], one["step"], name)
    one, two = ((job.workdir / "runs" / run / "report" / "predictions.json") for run in RUNS)
    assert two.read_bytes() == one.read_bytes()
    # The second process left nothing of its own.
    names = [{path.name for path in (job.workdir / "runs" / run).iterdir()} for run in RUNS]
    assert names[0] == names[1]


RUNS = ("one", "two")


def test_a_mesh_that_does_not_fit_is_refused_before_anything_is_written(job, monkeypatch):
    config = job.config.copy_and_resolve_references()
    new = dataclasses.replace(job, config=config, run=job.workdir / "runs" / "wrong")
    with monkeypatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 2)
        patch.setattr(jax, "process_count", lambda: 2)
        with pytest.raises(ValueError, match=r"config\.mesh: data=1, fsdp=1: must .* 2 of 2 proc"):
            train.run_training(new)
    config.mesh.data = 3
    for step in (train.run_training, evaluate.run_evaluation):
        with pytest.raises(ValueError, match=r"config\.mesh: data=3, fsdp=1: must .* devices, 1;"):
            step(new)
    assert not new.run.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_processes=2"], "--coordinator_address and --process_id must be given as well"),
        (["--coordinator_address=host"], "host: --num_processes and --process_id must be"),
        (
            ["--coordinator_address=host", "--num_processes=2", "--process_id=0"],
            "--coordinator_address=host: must be HOST:PORT",
        ),
        (
            ["--coordinator_address=host:1", "--num_processes=2", "--process_id=2"],
            r"--process_id=2: must lie in \[0, num_processes\), --num_processes=2",
        ),
    ],
)
def test_flags_of_the_processes_are_checked(arguments, message):
    defined = program.flags.FLAGS
    before = {name: defined[name].value for name in program._PROCESSES}
    try:
        defined(["program", *arguments])
        with (
            pytest.raises(program.UsageError, match=message),
            program.joined_processes(allowed=True),
        ):
            pytest.fail("joined")
        with (
            pytest.raises(program.UsageError, match="runs as one process"),
            program.joined_processes(allowed=False),
        ):
            pytest.fail("joined")
    finally:
        for name, value in before.items():
            defined[name].value = value


def test_a_batch_that_the_devices_do_not_divide_is_refused_by_field(job, monkeypatch):
    class Three:
        size = 3

    monkeypatch.setattr(training, "make_mesh", lambda config: Three())
    with pytest.raises(ValueError, match=r"config\.mesh: data=1, fsdp=1 are 3 .* the 16 rows of"):
        train.run_training(job)
