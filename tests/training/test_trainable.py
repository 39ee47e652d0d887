"""What is not trained stays, bit by bit, and costs the optimizer nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.models.layers import AddedParam
from minirec.models.lora import LoraConfig, add_adapters
from minirec.models.vocabulary import split_rows
from minirec.training import OptimizerConfig, Stage, TokenTask, read_metrics, train
from minirec.training.loop import new_optimizer
from minirec.training.optimizer import make_optimizer
from tests.models.language import VOCAB, make_language_model
from tests.training.helpers import config, values

STEPS = 4


class Batches:
    """Batch i is drawn by i; the place is i."""

    def __init__(self):
        self.next = 0

    def __iter__(self):
        return self

    def __next__(self):
        random = np.random.default_rng(self.next)
        self.next += 1
        tokens = random.integers(1, VOCAB, (4, 7)).astype(np.int32)
        place = np.tile(np.arange(6, dtype=np.int32), (4, 1))
        mask = (place > 2).astype(np.float32)
        fields = {"positions": place, "segment_ids": np.ones_like(place), "loss_mask": mask}
        return fields | {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}

    def get_state(self):
        return self.next

    def set_state(self, state):
        self.next = state


def language_model(parts):
    model = make_language_model()
    if "lora" in parts:
        add_adapters(model, LoraConfig(rank=2), seed=0)
    if "rows" in parts:
        split_rows(model, 24)
    return model


def stage():
    optimizer = OptimizerConfig(learning_rate=0.05, weight_decay=0.1)
    return Stage("sft", Batches, STEPS, optimizer, accumulate=2, trainable=AddedParam)


def run(folder, model, stop_after=None):
    def evaluate(model):
        if stop_after:
            raise KeyboardInterrupt
        return {"quality": 1.0}

    settings = config(folder, eval_every=3, checkpoint_every=2, log_every=1)
    return train(model, TokenTask(evaluate, "quality", logits_at_once=8), [stage()], settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, model) of a run with adapters and rows apart that nothing stopped."""
    folder, model = tmp_path_factory.mktemp("whole"), language_model(("lora", "rows"))
    run(folder, model)
    return folder, model


@pytest.mark.parametrize("parts", [("lora",), ("rows",), ("lora", "rows")])
def test_the_optimizer_holds_two_moments_of_what_was_added_and_nothing_else(parts):
    model = language_model(parts)
    sizes = {name: value.size for name, value in values(model).items()}
    added = names_of(model, AddedParam)
    assert added == {name for name in sizes if "adapters" in name or name.endswith("_tail")}
    assert len(added) == 14 * ("lora" in parts) + 2 * ("rows" in parts)
    optimizer = new_optimizer(model, stage(), None)
    moments = [v.size for _, v in nnx.to_flat_state(nnx.state(optimizer)) if v.size > 1]
    assert sum(moments) == 2 * sum(sizes[name] for name in added)


def test_only_what_was_added_changes(whole):
    before = values(language_model(("lora", "rows")))
    added = names_of(whole[1], AddedParam)
    for name, value in values(whole[1]).items():
        assert np.array_equal(value, before[name]) == (name not in added), name


def names_of(model, kind):
    return {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, kind))}


def test_a_run_that_was_stopped_goes_on_to_the_same_adapters(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, language_model(("lora", "rows")), stop_after=3)
    again = language_model(("lora", "rows"))
    assert run(tmp_path, again).resumed_from == 2
    for name, value in values(again).items():
        np.testing.assert_array_equal(value, values(whole[1])[name], err_msg=name)
    losses = [
        [line["loss"] for line in read_metrics(folder) if line["kind"] == "train"]
        for folder in (whole[0], tmp_path)
    ]
    assert losses[0] == losses[1]


def test_the_optimizer_of_bfloat16_parameters_keeps_float32_state():
    transform = make_optimizer(OptimizerConfig(learning_rate=0.1, weight_decay=0.1), 10)
    exact = {"w": jnp.asarray([[1.0, -2.0]])}
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), exact)
    updates = []
    for params in (exact, rounded):
        state = transform.init(params)
        assert {x.dtype.name for x in jax.tree.leaves(state)} <= {"float32", "int32"}
        grads = jax.tree.map(lambda x: (0.5 * x).astype(x.dtype), params)
        update, state = transform.update(grads, state, params)
        assert {x.dtype.name for x in jax.tree.leaves(state)} <= {"float32", "int32"}
        updates.append(update["w"])
    # The values are exact in bfloat16, so that the arithmetic must be the same.
    np.testing.assert_array_equal(*updates)
