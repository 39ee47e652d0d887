"""The model family that BUILD.md shows: trained, killed, resumed, evaluated and swept."""

import dataclasses
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from launch import evaluate, recommend, train
from launch.sweep import __main__ as sweep
from launch.sweep import sweep_run
from launch.sweep.grid import read_grid
from launch.wiring import program
from launch.wiring.experiment import experiment_of, families
from minirec.recommend import baselines_for
from minirec.training import read_metrics, without_wall_clock

ROOT = pathlib.Path(__file__).parent.parent.parent
# As few checkpoints as show all: one before a kill, one behind it, and the best one's place.
STEPS = {"train.num_steps": 6, "train.checkpoint_every": 2, "train.eval_every": 6}


@pytest.fixture(scope="module")
def job(smoke, tmp_path_factory):
    """The job of BUILD.md's experiment, beside data and SIDs of the quickstart's smoke run."""
    text = (ROOT / "BUILD.md").read_text(encoding="utf-8")
    section = text.partition("\n## Add a model family\n")[2].partition("\n## ")[0]
    family, experiment = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(family.splitlines()) <= 80
    folder = tmp_path_factory.mktemp("family")
    (folder / "gru.py").write_text(family)
    (folder / "gru_shop.py").write_text(experiment)
    for name in ("prepared", "sids"):
        (folder / name).symlink_to(smoke[0].workdir / name)
    config = program.load_config_module(str(folder / "gru_shop.py")).get_config("smoke")
    config.family = str(folder / "gru.py")
    config.update_from_flattened_dict(STEPS)
    return program.Job(config, folder, folder / "runs" / "whole")


def lines(run):
    return [without_wall_clock(line) for line in read_metrics(run)]


@pytest.fixture(scope="module")
def killed(job):
    """The same run, killed after its first checkpoint and gone on with."""
    run = job.workdir / "runs" / "killed"
    command = [
        *(sys.executable, "-m", "launch.train", f"--config={job.workdir / 'gru_shop.py'}:smoke"),
        *(f"--workdir={job.workdir}", "--run=killed", f"--config.family={job.config.family}"),
        *(f"--config.{field}={value}" for field, value in STEPS.items()),
    ]
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None and not list(run.glob("checkpoints/last/[0-9]*")):
        time.sleep(0.01)
    process.kill()
    assert process.wait() in (0, -signal.SIGKILL)
    killed = dataclasses.replace(job, run=run)
    assert train.run_training(killed).reason == "finished"
    return killed


def test_it_is_swept_and_a_killed_run_ends_as_the_one_of_the_sweep(job, killed):
    rate = job.config.train.learning_rate
    settings = read_grid(f"train.learning_rate={rate}", job.config)
    done = sweep.run_sweep(job, settings, execute=sweep_run.execute)
    assert (done.num_finished, done.num_failed) == (1, 0)
    (whole,) = (job.workdir / "sweeps" / job.run.name / "runs").iterdir()
    assert lines(killed.run) == lines(whole)


def test_it_is_evaluated_and_recommends(killed):
    report = evaluate.run_evaluation(killed)
    assert set(report.evaluations) == {
        "model",
        "system",
        *baselines_for(has_order=True, repeats=False),
    }
    assert report.model.invalid == 0
    assert (killed.run / "run_summary.json").is_file()
    assert len(list(recommend.recommend(killed, [[]], top=3))) == 3


@pytest.mark.parametrize("name", ["", "no_family", "experiment", "missing.py"])
def test_an_unknown_family_is_refused_with_those_there_are(job, name):
    config = job.config.copy_and_resolve_references()
    config.family = name
    with pytest.raises(program.UsageError, match=rf"family='{name}': must be one of feed, lang"):
        experiment_of(config)


def test_a_file_without_an_experiment_is_refused(job, tmp_path):
    config = job.config.copy_and_resolve_references()
    config.family = str(tmp_path / "mine.py")
    (tmp_path / "mine.py").write_text("x = 1\n")
    with pytest.raises(program.UsageError, match=r"mine\.py': the file has no EXPERIMENT"):
        experiment_of(config)


def test_a_familys_file_may_hold_dataclasses_and_is_loaded_once(job, tmp_path):
    config = job.config.copy_and_resolve_references()
    config.family = str(tmp_path / "sid.py")  # A name that a module of ours has.
    (tmp_path / "sid.py").write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "from launch.wiring import sid\n"
        "@dataclasses.dataclass\n"
        "class Kept:\n"
        "    number: int\n"
        "EXPERIMENT = sid.family(lambda config, catalogue: None)\n"
    )
    assert experiment_of(config) is experiment_of(config)


def test_the_families_are_those_with_an_experiment():
    assert families() == ("feed", "language", "sid", "text", "watch")
