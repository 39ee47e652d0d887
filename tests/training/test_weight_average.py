import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from minirec.training import OptimizerConfig, load_best, load_last, make_optimizer, train
from minirec.training.checkpoints import Checkpoints
from minirec.training.weight_average import averaged, with_weight_average
from tests.bounds import assert_close
from tests.training.helpers import assert_equal_models, config, fresh, lines, values
from tests.training.tiny import TinyTask, stages

DECAY = {"average_decay": 0.9}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    model = fresh()
    train(model, TinyTask(), stages(12, **DECAY), config(folder))
    return folder, model


def test_the_average_forgets_its_start_then_keeps_the_decay():
    steps = [1.0, -2.0, 0.5, 4.0, 3.0]
    move = optax.GradientTransformation(lambda _: (), lambda updates, state, _=None: (updates, ()))
    transform = with_weight_average(move, 0.25)
    weight = wanted = 8.0
    state = transform.init({"w": jnp.float32(weight)})
    for before, step in enumerate(steps):
        updates, state = transform.update({"w": jnp.float32(step)}, state, {"w": weight})
        assert updates["w"] == step
        weight += step
        kept = min(0.25, before / (before + 10))
        wanted = kept * wanted + (1 - kept) * weight
        assert_close(state.average["w"], wanted, 4 * len(steps), scale=8)


def test_averages_come_back_in_the_parameters_type_and_nothing_else_changes():
    model = fresh()
    model.kernel.set_value(model.kernel[...].astype(jnp.bfloat16))
    transform = make_optimizer(OptimizerConfig(average_decay=0.9), 1)
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    assert optimizer.opt_state.average.kernel.dtype == jnp.float32
    before = nnx.state(model)
    after = averaged(before, nnx.state(optimizer))
    assert after.kernel.dtype == jnp.bfloat16
    assert_equal_models(nnx.merge(nnx.graphdef(model), after), model)


def test_training_itself_is_the_same_and_only_what_is_evaluated_differs(tmp_path, uninterrupted):
    folder, model = uninterrupted
    plain = fresh()
    train(plain, TinyTask(), stages(12), config(tmp_path))
    assert_equal_models(plain, model)
    assert lines(tmp_path, "train") == lines(folder, "train")
    assert lines(tmp_path, "eval") != lines(folder, "eval")


def test_the_best_model_is_the_average_that_was_evaluated(uninterrupted):
    folder, model = uninterrupted
    best = load_best(folder, fresh())
    selecting = max(line["eval/quality"] for line in lines(folder, "eval"))
    assert TinyTask().evaluate(best)["quality"] == selecting
    assert_equal_models(load_last(folder, fresh()), model)
    assert np.any(values(best)["kernel"] != values(model)["kernel"])


def test_without_evaluations_the_last_average_is_kept(tmp_path, uninterrupted):
    folder, _ = uninterrupted
    assert lines(folder, "eval")[-1]["is_best"]
    train(fresh(), TinyTask(), stages(12, **DECAY), config(tmp_path, eval_every=0))
    assert_equal_models(load_best(tmp_path, fresh()), load_best(folder, fresh()))


def test_a_crash_before_the_best_is_saved_loses_no_average(tmp_path, uninterrupted, monkeypatch):
    folder, model = uninterrupted

    def crash(self, model, step):
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save_best", crash)
        with pytest.raises(RuntimeError, match="the power went"):
            train(fresh(), TinyTask(), stages(12, **DECAY), config(tmp_path))
    resumed = fresh()
    train(resumed, TinyTask(), stages(12, **DECAY), config(tmp_path))
    assert_equal_models(resumed, model)
    assert lines(tmp_path) == lines(folder)
    assert_equal_models(load_best(tmp_path, fresh()), load_best(folder, fresh()))
