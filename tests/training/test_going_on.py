"""A run that was stopped goes on as if it had not been; other runs are told apart."""

import itertools
import os
import signal

import grain
import pytest
from flax import nnx

from minirec.training import (
    RunFolderError,
    Stage,
    TrainConfig,
    load_best,
    load_last,
    run_folder,
    train,
)
from minirec.training.checkpoints import Checkpoints
from tests.training.helpers import assert_equal_models, config, fresh, lines
from tests.training.tiny import TinyBatches, TinyTask, stages


def test_the_finished_run_answers_at_once_with_its_result_and_model(uninterrupted, capsys):
    folder, model, result = uninterrupted
    before = (folder / "metrics.jsonl").read_bytes()
    again_model = fresh()
    again = train(again_model, TinyTask(), stages(10, 7), config(folder))
    assert "this run is finished" in capsys.readouterr().err
    assert again.traces == 0
    assert (again.step, again.best_metric, again.best_step) == (
        result.step,
        result.best_metric,
        result.best_step,
    )
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert_equal_models(again_model, model)


@pytest.mark.parametrize("stop_at", [1, 8, 10, 13])
def test_a_signal_saves_and_the_next_call_goes_on_exactly(stop_at, tmp_path, uninterrupted):
    folder, model, _ = uninterrupted
    before = signal.getsignal(signal.SIGTERM)

    class Signalling(TinyBatches):
        def __next__(self):
            if 10 * self.seed + self.next + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    def stopping():
        return [
            Stage(s.name, lambda i=i: Signalling(i), s.num_steps, s.optimizer, s.accumulate)
            for i, s in enumerate(stages(10, 7))
        ]

    stopped = train(fresh(), TinyTask(), stopping(), config(tmp_path))
    assert (stopped.step, stopped.interrupted) == (stop_at, True)
    assert signal.getsignal(signal.SIGTERM) is before
    resumed_model = fresh()
    resumed = train(resumed_model, TinyTask(), stages(10, 7), config(tmp_path))
    assert resumed.resumed_from == stop_at
    assert_equal_models(resumed_model, model)
    assert lines(tmp_path) == lines(folder)
    assert_equal_models(load_best(tmp_path, fresh()), load_best(folder, fresh()))


@pytest.mark.parametrize(("evaluations", "step"), [(0, 6), (3, 17)])
def test_a_signal_during_an_evaluation_abandons_it_and_it_is_made_up_for(
    evaluations, step, tmp_path, uninterrupted
):
    folder, model, _ = uninterrupted

    class Stopped(TinyTask):
        done = 0

        def evaluate(self, model):
            try:
                if self.done == evaluations:
                    os.kill(os.getpid(), signal.SIGINT)
                self.done += 1
                return super().evaluate(model)
            except Exception:
                pytest.fail("the evaluation was not abandoned")

    task = Stopped()
    stopped = train(fresh(), task, stages(10, 7), config(tmp_path))
    assert (stopped.step, stopped.interrupted, task.done) == (step, True, evaluations)
    resumed_model = fresh()
    train(resumed_model, TinyTask(), stages(10, 7), config(tmp_path))
    assert_equal_models(resumed_model, model)
    assert lines(tmp_path) == lines(folder)
    assert_equal_models(load_best(tmp_path, fresh()), load_best(folder, fresh()))


def test_a_crash_between_last_and_best_loses_neither(tmp_path, uninterrupted, monkeypatch):
    folder, model, _ = uninterrupted

    def crash(self, model, step):
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save_best", crash)
        with pytest.raises(RuntimeError, match="the power went"):
            train(fresh(), TinyTask(), stages(10, 7), config(tmp_path))
    assert lines(tmp_path, "eval")[-1]["is_best"]

    class Crashing(TinyBatches):
        def __next__(self):
            raise RuntimeError("again")

    crashing = [
        Stage(s.name, lambda i=i: Crashing(i), s.num_steps, s.optimizer, s.accumulate)
        for i, s in enumerate(stages(10, 7))
    ]
    with pytest.raises(RuntimeError, match="again"):
        train(fresh(), TinyTask(), crashing, config(tmp_path))
    assert_equal_models(load_best(tmp_path, fresh()), load_last(tmp_path, fresh()))
    resumed_model = fresh()
    train(resumed_model, TinyTask(), stages(10, 7), config(tmp_path))
    assert_equal_models(resumed_model, model)
    assert lines(tmp_path) == lines(folder)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    def stopping(stop):
        first = stages(12)[0]
        return [Stage(first.name, lambda: TinyBatches(0, stop=stop), 12, first.optimizer)]

    with pytest.raises(ValueError, match=r"ended after 9 of num_steps=12.*must repeat"):
        train(fresh(), TinyTask(), stopping(9), config(tmp_path))
    last = tmp_path / "checkpoints" / "last"
    assert sorted(int(p.name) for p in last.iterdir()) == [6, 8]
    for path in sorted((last / "8" / "model").rglob("*")):
        if path.is_file():
            path.write_bytes(b"")
    result = train(fresh(), TinyTask(), stopping(None), config(tmp_path))
    assert "trying an older one" in capsys.readouterr().err
    assert (result.resumed_from, result.step) == (6, 12)
    assert [line["step"] for line in lines(tmp_path, "train")] == [2, 4, 6, 8, 10, 12]


def test_another_configuration_in_the_folder_is_refused_by_field(tmp_path, uninterrupted):
    folder = uninterrupted[0]
    with pytest.raises(RunFolderError) as error:
        train(fresh(), TinyTask(), stages(10, 9), config(folder, seed=2))
    assert "train.seed: 1 there, 2 now" in str(error.value)
    assert "stages.1.num_steps: 7 there, 9 now" in str(error.value)
    assert "stages.0" not in str(error.value)
    with pytest.raises(RunFolderError, match=r"model\.width: 8 there, \(none\) now"):
        record = {"model": {"width": 8}}
        train(fresh(), TinyTask(), stages(1), config(tmp_path, eval_every=0), record=record)
        train(fresh(), TinyTask(), stages(1), config(tmp_path, eval_every=0), record={"model": {}})


def test_overwrite_starts_anew_and_leaves_other_files(tmp_path):
    train(fresh(), TinyTask(), stages(4), config(tmp_path, eval_every=0))
    (tmp_path / "sids.json").write_text("{}")
    result = train(
        fresh(), TinyTask(), stages(2), config(tmp_path, eval_every=0, overwrite=True, seed=5)
    )
    assert (result.step, result.resumed_from) == (2, None)
    assert [line["step"] for line in lines(tmp_path, "train")] == [2]
    assert (tmp_path / "sids.json").exists()
    assert [p.name for p in (tmp_path / "checkpoints" / "last").iterdir()] == ["2"]


def test_a_model_of_another_shape_is_refused_by_parameter(uninterrupted, tmp_path):
    folder = uninterrupted[0]
    with pytest.raises(ValueError, match=r"'kernel' of shape \(2, 8, 8\).*\(2, 9, 9\)"):
        load_best(folder, fresh(width=9))
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_best(tmp_path, fresh())


def test_load_best_takes_an_abstract_model(uninterrupted):
    folder, _, result = uninterrupted
    best = load_best(folder, nnx.eval_shape(fresh))
    assert TinyTask().evaluate(best)["quality"] == result.best_metric


def test_tensorboard_forgets_what_a_resumed_run_repeats(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    def stopping(stop):
        first = stages(12)[0]
        return [Stage(first.name, lambda: TinyBatches(0, stop=stop), 12, first.optimizer)]

    settings = TrainConfig(
        tmp_path, eval_every=0, checkpoint_every=4, log_every=2, progress=False, tensorboard=True
    )
    with pytest.raises(ValueError, match="ended after 7"):
        train(fresh(), TinyTask(), stopping(7), settings)
    train(fresh(), TinyTask(), stopping(None), settings)
    steps, restarts = set(), []
    for path in sorted((tmp_path / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.HasField("session_log"):
                restarts.append(event.step)
            for value in event.summary.value:
                if value.tag == "train/loss":
                    steps.add(event.step)
    assert steps == {2, 4, 6, 8, 10, 12}
    assert 5 in restarts


def test_a_grain_dataset_is_a_stage_s_batches_and_keeps_its_place(tmp_path):
    def make_batches(stop_at=None):
        def batch(index):
            return {name: x for name, x in next(TinyBatches(index)).items() if name != "place"}

        dataset = grain.MapDataset.range(64).shuffle(seed=3).repeat().map(batch)
        dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=3))
        iterator = iter(dataset)
        if stop_at is not None:
            count = itertools.count()

            class Stopping(type(iterator)):
                def __next__(self):
                    if next(count) == stop_at:
                        os.kill(os.getpid(), signal.SIGTERM)
                    return super().__next__()

            iterator.__class__ = Stopping
        return iterator

    def run(folder, stop_at):
        stage = Stage("grain", lambda: make_batches(stop_at), 9, stages(9)[0].optimizer)
        model = fresh()
        return model, train(model, TinyTask(), [stage], config(folder, eval_every=0))

    expected, _ = run(tmp_path / "whole", None)
    _, stopped = run(tmp_path / "stopped", 5)
    assert (stopped.interrupted, stopped.step) == (True, 6)
    resumed, _ = run(tmp_path / "stopped", None)
    assert_equal_models(resumed, expected)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


def test_two_processes_do_not_share_a_folder(tmp_path):
    from minirec.training.run_folder import locked

    with locked(tmp_path), pytest.raises(RunFolderError, match=f"process {os.getpid()} on"):
        train(fresh(), TinyTask(), stages(1), config(tmp_path))


def test_another_ctrl_c_leaves_the_run_at_once(tmp_path):
    class Interrupting(TinyBatches):
        def __next__(self):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            return super().__next__()

    first = stages(4)[0]
    stage = Stage(first.name, lambda: Interrupting(0), 4, first.optimizer)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), TinyTask(), [stage], config(tmp_path))
    assert signal.getsignal(signal.SIGINT) is before
    with run_folder.locked(tmp_path):
        pass


def test_a_stage_s_batches_are_closed_however_the_run_ends(tmp_path):
    closed = []

    class Closing(TinyBatches):
        def close(self):
            closed.append(self.next)

    def stage(stop):
        first = stages(4)[0]
        return Stage(first.name, lambda: Closing(0, stop=stop), 4, first.optimizer)

    with pytest.raises(ValueError, match="ended after 2"):
        train(fresh(), TinyTask(), [stage(2)], config(tmp_path))
    train(fresh(), TinyTask(), [stage(None)], config(tmp_path))
    assert closed == [2, 4]
