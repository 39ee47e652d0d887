"""What is watched beside the task: when it is measured, what ends a run, and exact resume."""

import os
import signal

import numpy as np
import pytest
from flax import nnx

from minirec.training import (
    Monitor,
    TrainConfig,
    load_best,
    read_metrics,
    train,
    without_wall_clock,
)
from tests.training.tiny import TinyModel, TinyTask, stages


def watched(value=lambda model: float(np.abs(model.kernel[...]).sum()), **options):
    return Monitor(
        "size", lambda model: {"total": value(model)}, every=4, watched="total", **options
    )


def run(folder, monitors, lengths=(10, 6), **options):
    config = {"seed": 1, "eval_every": 5, "checkpoint_every": 3, "log_every": 2}
    ends = []
    model = TinyModel(rngs=nnx.Rngs(0))
    result = train(
        model,
        TinyTask(),
        stages(*lengths),
        TrainConfig(folder=folder, tensorboard=False, progress=False, **config | options),
        monitors=monitors,
        on_stage_end=lambda stage, load: ends.append((stage.name, load())),
    )
    return result, ends


def lines_of(folder, kind="monitor"):
    return [without_wall_clock(line) for line in read_metrics(folder) if line["kind"] == kind]


def test_a_monitor_measures_before_training_now_and_then_and_at_each_end(tmp_path):
    result, _ = run(tmp_path / "a", [watched()])
    lines = lines_of(tmp_path / "a")
    assert [line["step"] for line in lines] == [0, 4, 8, 10, 12, 16]
    assert [line["stage"] for line in lines] == ["stage0"] * 4 + ["stage1"] * 2
    first = float(np.abs(TinyModel(rngs=nnx.Rngs(0)).kernel[...]).sum())
    assert lines[0]["size/total"] == pytest.approx(first, rel=1e-6)
    assert result.reason == "finished"
    # It changes nothing of the run.
    run(tmp_path / "b", [])
    for kind in ("train", "eval"):
        assert lines_of(tmp_path / "a", kind) == lines_of(tmp_path / "b", kind)


@pytest.mark.parametrize("stops", [False, True])
def test_a_rise_beyond_the_limit_warns_or_ends_the_run(tmp_path, stops):
    calls = iter([1.0, 1.05, 1.3, 1.4, 2.0, 3.0])
    monitor = watched(lambda model: next(calls), max_rise=0.2, stops=stops)
    result, ends = run(tmp_path, [monitor])
    assert (result.reason, result.step) == (("monitor", 8) if stops else ("finished", 16))
    assert [name for name, _ in ends] == ["stage0", "stage1"][: 1 if stops else 2]
    assert len(lines_of(tmp_path)) == (3 if stops else 6)
    assert read_metrics(tmp_path)[-1]["reason"] == result.reason
    # What has ended has ended.
    again, _ = run(tmp_path, [monitor])
    assert (again.reason, again.step) == (result.reason, result.step)


def test_a_measure_that_is_no_number_has_risen(tmp_path):
    calls = iter([1.0, float("nan")])
    result, _ = run(tmp_path, [watched(lambda model: next(calls), max_rise=9.0, stops=True)])
    assert (result.reason, result.step) == ("monitor", 4)
    assert lines_of(tmp_path)[-1]["size/total"] is None


def grows(model):
    """1.4 after 4 steps, 1.8 after 8."""
    return 1 + int(model.calls[...]) / 10


@pytest.fixture(scope="module")
def halted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halted")
    run(folder, [watched(grows, max_rise=0.7, stops=True)])
    return folder


@pytest.mark.parametrize("at", [4, 8])
def test_a_run_that_was_stopped_goes_on_to_the_same_lines(tmp_path, halted, at):
    """At 8 the rise is beyond the limit: a run that was stopped just there must not go on."""

    def interrupts(model):
        if int(model.calls[...]) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return grows(model)

    limit = {"max_rise": 0.7, "stops": True}
    result, _ = run(tmp_path, [watched(interrupts, **limit)])
    assert result.step == at
    if result.interrupted:
        result, _ = run(tmp_path, [watched(grows, **limit)])
    assert (result.reason, result.step) == ("monitor", 8)
    assert [without_wall_clock(line) for line in read_metrics(tmp_path)] == [
        without_wall_clock(line) for line in read_metrics(halted)
    ]


def test_each_stage_has_a_best_model_of_its_own_where_that_is_asked_for(tmp_path):
    result, ends = run(tmp_path, [], best_of="stage")
    evaluations = lines_of(tmp_path, "eval")
    by_stage = {
        name: max(line["eval/quality"] for line in evaluations if line["stage"] == name)
        for name in ("stage0", "stage1")
    }
    for name, model in ends:
        assert TinyTask().evaluate(model)["quality"] == pytest.approx(by_stage[name], rel=1e-5)
    assert result.best_metric == by_stage["stage1"]
    best = load_best(tmp_path, TinyModel(rngs=nnx.Rngs(1)))
    assert TinyTask().evaluate(best)["quality"] == pytest.approx(by_stage["stage1"], rel=1e-5)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"Monitor\('x'\)\.every=0"):
        Monitor("x", lambda model: {}, every=0, watched="y")
    with pytest.raises(ValueError, match="max_rise=-1"):
        Monitor("x", lambda model: {}, every=1, watched="y", max_rise=-1.0)
    with pytest.raises(ValueError, match="best_of='all'"):
        TrainConfig(folder="x", best_of="all")


def test_a_measure_that_is_missing_and_names_that_are_alike_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"watched='total' is not among .*'size/other'"):
        run(
            tmp_path / "a",
            [Monitor("size", lambda model: {"other": 1.0}, every=1, watched="total")],
        )
    with pytest.raises(ValueError, match="names must differ"):
        run(tmp_path / "b", [watched(), watched()])
