import json

import jax
import numpy as np
import pytest
from flax import nnx

from minirec.training import (
    NonFiniteError,
    OptimizerConfig,
    Stage,
    TrainConfig,
    load_best,
    load_last,
    make_optimizer,
    read_metrics,
    train,
)
from minirec.training.checkpoints import Checkpoints
from tests.bounds import FUNCTION, gamma
from tests.training.helpers import ScriptedTask, assert_equal_models, config, fresh, lines, values
from tests.training.tiny import WIDTH, TinyBatches, TinyTask, stages


def test_a_run_moves_parameters_and_counts_its_steps(uninterrupted):
    folder, model, result = uninterrupted
    before, after = values(fresh()), values(model)
    for name in ("kernel", "norm_scale", "layers.0.kernel", "layers.0.bias"):
        assert not np.array_equal(before[name], after[name]), name
    # State that is no parameter is carried on too, part by part of the accumulated batches.
    assert after["calls"] == 10 + 2 * 7
    assert (result.step, result.reason, result.interrupted) == (17, "finished", False)
    train_losses = [line["loss"] for line in lines(folder, "train")]
    assert np.mean(train_losses[-3:]) < np.mean(train_losses[:3])


def test_each_stage_has_a_new_optimizer_and_its_own_schedule(uninterrupted):
    folder, _, _ = uninterrupted
    checkpoints = Checkpoints(folder, keep_last=2)
    optimizers = {}

    def new_optimizer(index):
        stage = stages(10, 7)[index]
        transform = make_optimizer(stage.optimizer, stage.num_steps)
        optimizers[index] = nnx.Optimizer(fresh(), transform, wrt=nnx.Param)
        return optimizers[index]

    position, _, optimizer_state = checkpoints.restore_newest(fresh(), new_optimizer)
    nnx.update(optimizers[1], optimizer_state)
    assert (position.step, position.stage, position.step_in_stage) == (17, 1, 7)
    assert position.loader == {"next": 7}
    assert int(optimizers[1].step[...]) == 7
    rates = {line["step"]: line["learning_rate"] for line in lines(folder, "train")}
    assert rates[12] == pytest.approx(0.02 * 2 / 3)  # Warm-up begins anew.


def test_a_step_is_traced_once_a_stage(uninterrupted):
    assert uninterrupted[2].traces == 2


def test_lines_are_strict_json_with_the_documented_fields(uninterrupted):
    folder = uninterrupted[0]
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"not JSON: {word}"))
    everything = read_metrics(folder)
    assert [line["step"] for line in everything if line["kind"] == "train"] == [*range(2, 18, 2)]
    assert [line["step"] for line in everything if line["kind"] == "eval"] == [6, 10, 12, 17]
    assert everything[-1]["kind"] == "final"
    fields = {"stage", "loss", "close", "learning_rate", "grad_norm", "seconds"}
    assert everything[0].keys() >= fields
    assert everything[0]["examples_per_second"] > 0
    assert "seconds" not in lines(folder)[0]


def test_a_line_averages_over_denominators_not_over_steps(tmp_path):
    class Weighted(TinyTask):
        def loss(self, model, batch, *, key):
            total = 0.0 * jax.numpy.sum(model(batch["x"])) + jax.numpy.sum(batch["weight"])
            count = jax.numpy.sum(batch["weight"] > 0)
            return total, count, {"weight": (total, count)}

    train(fresh(), Weighted(), stages(4), config(tmp_path, eval_every=0, log_every=4))
    batches = TinyBatches(0)
    weights = np.concatenate([next(batches)["weight"] for _ in range(4)])
    (line,) = lines(tmp_path, "train")
    assert line["loss"] == line["weight"] == weights.sum() / np.count_nonzero(weights)


def test_a_batch_without_targets_changes_no_loss_and_is_not_an_error(tmp_path):
    class Untargeted(TinyTask):
        def inputs(self, batch):
            return {"x": batch["x"], "y": batch["y"], "weight": 0.0 * batch["weight"]}

    train(fresh(), Untargeted(), stages(2), config(tmp_path, eval_every=0))
    assert [line["loss"] for line in lines(tmp_path, "train")] == [0.0]


def test_the_best_is_the_best_and_patience_ends_a_stage(tmp_path):
    task = ScriptedTask(0.1, 0.3, 0.2, 0.3, 9.9)
    model = fresh()
    result = train(
        model, task, stages(40, schedule="constant"), config(tmp_path, eval_every=3, patience=2)
    )
    assert (result.reason, result.step) == ("early_stop", 12)
    assert (result.best_metric, result.best_step) == (0.3, 6)  # The earlier of equals.
    at_six = fresh()
    train(at_six, TinyTask(), stages(6, schedule="constant"), config(tmp_path / "six"))
    assert_equal_models(load_best(tmp_path, fresh()), at_six)
    assert_equal_models(load_last(tmp_path, fresh()), model)
    assert values(model)["calls"] == 12
    final = lines(tmp_path)[-1]
    assert (final["kind"], final["reason"], final["best_step"]) == ("final", "early_stop", 6)


def test_patience_begins_anew_with_a_stage_and_the_best_stays_the_run_s(tmp_path):
    task = ScriptedTask(0.9, 0.1, 0.5, 0.6, 0.7)
    result = train(
        fresh(), task, stages(40, 6), config(tmp_path, eval_every=2, patience=1, checkpoint_every=0)
    )
    assert (result.reason, result.step) == ("finished", 10)
    assert (result.best_metric, result.best_step) == (0.9, 2)


def test_without_evaluation_the_last_model_is_the_best(tmp_path):
    model = fresh()
    result = train(model, TinyTask(), stages(3), config(tmp_path, eval_every=0))
    assert (result.best_metric, result.best_step) == (None, None)
    assert_equal_models(load_best(tmp_path, nnx.eval_shape(fresh)), model)


def test_evaluation_does_not_touch_training(tmp_path, uninterrupted):
    class Meddling(TinyTask):
        def evaluate(self, model):
            for _ in range(3):
                model.calls[...] += 1
            model.kernel[...] = model.kernel[...] * 0.0
            return super().evaluate(model)

    model = fresh()
    train(model, Meddling(), stages(10, 7), config(tmp_path, eval_every=2))
    assert_equal_models(model, uninterrupted[1])


def test_a_non_finite_loss_stops_the_run_and_names_step_and_batch(tmp_path):
    poisoned = [Stage("only", lambda: TinyBatches(0, poison=6), 20, stages(20)[0].optimizer)]
    arguments = (TinyTask(), poisoned, config(tmp_path, eval_every=0))
    for _ in range(2):  # The second call goes on from the last good state, to the same end.
        with pytest.raises(NonFiniteError, match=r"step 7 \(stage 'only'\).*seed 0, 6"):
            train(fresh(), *arguments, describe_batch=lambda batch: batch["place"])
        for value in values(load_last(tmp_path, fresh())).values():
            assert np.isfinite(value).all()
        assert [p.name for p in (tmp_path / "checkpoints" / "last").iterdir()] == ["4"]
        line = lines(tmp_path)[-1]
        assert (line["kind"], line["step"], line["loss"]) == ("non_finite", 7, None)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text


def test_a_poisoned_step_just_before_a_checkpoint_is_not_saved(tmp_path):
    poisoned = [Stage("only", lambda: TinyBatches(0, poison=7), 20, stages(20)[0].optimizer)]
    with pytest.raises(NonFiniteError, match="step 8"):
        train(fresh(), TinyTask(), poisoned, config(tmp_path, eval_every=0))
    assert [p.name for p in (tmp_path / "checkpoints" / "last").iterdir()] == ["4"]


def test_a_selecting_metric_must_be_there_and_finite(tmp_path):
    with pytest.raises(NonFiniteError, match="evaluation at step 6: quality is nan"):
        train(fresh(), ScriptedTask(float("nan")), stages(10), config(tmp_path / "nan"))

    class Renamed(TinyTask):
        select_metric = "ndcg@10"

    with pytest.raises(ValueError, match=r"select_metric='ndcg@10' is not among.*'quality'"):
        train(fresh(), Renamed(), stages(10), config(tmp_path / "missing"))


def test_accumulated_parts_equal_one_large_batch(tmp_path):
    models, logs = [], []
    for accumulate in (1, 4):
        stage = Stage(
            "only",
            lambda: TinyBatches(3, size=16),
            6,
            OptimizerConfig(learning_rate=0.01, clip_norm=0.5, eps=1e-3),
            accumulate,
        )
        folder = tmp_path / str(accumulate)
        model = fresh()
        train(model, TinyTask(dropout=False), [stage], config(folder, log_every=1, eval_every=0))
        models.append(values(model))
        logs.append(lines(folder, "train"))
    # Two products and their two of the backward pass each, a tanh and a norm's scale behind each,
    # a sum over 16 rows and one over all parameters. Errors of 6 steps come on top of each other,
    # those of the parameters too, which losses and gradients follow with slopes of about 1.
    parameters = sum(array.size for array in models[0].values())
    moved = stage.optimizer.learning_rate / stage.optimizer.eps
    roundings = 3 * (3 * WIDTH + 2 * (FUNCTION + 1)) + 16 + parameters
    bound = 2 * 6 * gamma(roundings)
    assert bound * (1 + moved) < 1e-3
    for name in models[0].keys() - {"calls"}:
        # The gradient's norm is 0.5 at most; Adam divides what it is off by `eps` at least.
        np.testing.assert_allclose(
            models[0][name], models[1][name], rtol=0, atol=0.5 * moved * bound, err_msg=name
        )
    for one, other in zip(*logs, strict=True):
        for name in ("loss", "close", "grad_norm"):
            assert one[name] == pytest.approx(other[name], rel=bound * (1 + moved))


def test_accumulation_must_divide_the_batch(tmp_path):
    stage = Stage("only", lambda: TinyBatches(0), 2, accumulate=3)
    with pytest.raises(ValueError, match=r"accumulate=3 does not divide .* axis of 8"):
        train(fresh(), TinyTask(), [stage], config(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"log_every": 0}, r"TrainConfig\.log_every=0: must be a whole number of at least 1"),
        ({"eval_every": 2.5}, r"TrainConfig\.eval_every=2\.5"),
        ({"patience": 3, "eval_every": 0}, "patience=3 counts evaluations"),
    ],
)
def test_wrong_settings_are_named(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        TrainConfig(tmp_path, **fields)


def test_stages_must_differ_in_name_and_save_their_place(tmp_path):
    with pytest.raises(ValueError, match="two stages are called 'stage0'"):
        train(fresh(), TinyTask(), stages(1) * 2, config(tmp_path))
    with pytest.raises(ValueError, match="needs at least one Stage"):
        train(fresh(), TinyTask(), [], config(tmp_path))

    class Opaque(TinyBatches):
        def get_state(self):
            return b"bytes"

    with pytest.raises(ValueError, match=r"get_state\(\) must give a JSON value"):
        train(fresh(), TinyTask(), [Stage("opaque", lambda: Opaque(0), 2)], config(tmp_path))
    with pytest.raises(ValueError, match=r"stage 'bare'.*get_state"):
        train(fresh(), TinyTask(), [Stage("bare", lambda: [1, 2], 2)], config(tmp_path / "bare"))
