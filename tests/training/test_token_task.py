import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from minirec.training import OptimizerConfig, Stage, TokenTask, TrainConfig, load_best, train
from minirec.training.tasks.token_task import cross_entropy
from tests.bounds import assert_close, log_softmax_roundings, trunk_roundings

V, T = 17, 9
CONFIG = SidDecoderConfig(
    trunk=TrunkConfig(
        num_layers=2, width=16, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=32, dropout=0.1
    ),
    vocab_size=V,
)
KEY = jax.random.key(0)


@nnx.jit
def make_model():
    return SidDecoder(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_batch(seed, loss_tokens=2, size=8):
    """Rows of a learnable rule (the next token is one more), loss on the last `loss_tokens`."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(loss_tokens, T + 1, size)
    place = np.arange(T)
    tokens = (rng.integers(2, V, (size, 1)) + place) % V
    valid = place < lengths[:, None]
    mask = valid & (place >= lengths[:, None] - loss_tokens)
    return {
        "tokens": np.where(valid, tokens, 0).astype(np.int32),
        "targets": np.where(valid, (tokens + 1) % V, 0).astype(np.int32),
        "loss_mask": mask.astype(np.float32),
        "positions": np.where(valid, place, 0).astype(np.int32),
        "segment_ids": valid.astype(np.int32),
        "epoch": "not for the device",
    }


class Batches:
    def __init__(self):
        self.next = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.next += 1
        return make_batch(self.next)

    def get_state(self):
        return self.next

    def set_state(self, state):
        self.next = state


def loss_of(task, model, batch):
    loss = jax.jit(lambda model, inputs: task.loss(model, inputs, key=None))
    return jax.device_get(loss(model, task.inputs(batch)))


def test_loss_and_accuracy_are_those_of_the_masked_tokens(model):
    batch = make_batch(0)
    total, count, metrics = loss_of(TokenTask(evaluator=dict), model, batch)
    hidden = model(*(batch[name] for name in ("tokens", "positions", "segment_ids")))
    log_probs = np.asarray(jax.nn.log_softmax(model.logits(hidden)), np.float64)
    rows, places = np.nonzero(batch["loss_mask"])
    targets = batch["targets"][rows, places]
    assert count == len(rows) == 16
    through = trunk_roundings(CONFIG.trunk, T) + CONFIG.trunk.width + log_softmax_roundings(V)
    assert_close(total, -log_probs[rows, places, targets].sum(), through + len(rows))
    hits = (log_probs[rows, places].argmax(-1) == targets).sum()
    assert metrics["token_accuracy"] == (hits, 16)


@pytest.mark.parametrize("weights", [(1.0,), (0.25, 3.0, 0.0)])
def test_logits_of_the_asked_places_alone_give_the_same_loss(model, weights):
    batch = make_batch(1)
    batch["loss_mask"] *= np.resize(np.float32(weights), T)
    everywhere = loss_of(TokenTask(evaluator=dict, label_smoothing=0.1), model, batch)
    task = TokenTask(evaluator=dict, label_smoothing=0.1, max_loss_tokens=3)
    picked = loss_of(task, model, batch)
    # The trunk is the same; a product of another shape, the softmax and the sums may differ.
    roundings = CONFIG.trunk.width + log_softmax_roundings(V) + V + batch["loss_mask"].size
    for one, other in zip(jax.tree.leaves(everywhere), jax.tree.leaves(picked), strict=True):
        assert_close(other, one, roundings)


def test_more_loss_tokens_than_declared_are_an_error_not_a_silent_loss():
    task = TokenTask(evaluator=dict, max_loss_tokens=1)
    with pytest.raises(ValueError, match=r"row 0: loss_mask asks for 2 tokens.*=1 allows fewer"):
        task.inputs(make_batch(0))
    with pytest.raises(ValueError, match="batch lacks 'targets'"):
        task.inputs({"tokens": np.zeros((1, 1))})


def test_label_smoothing_is_cross_entropy_with_a_mixed_target():
    logits = jax.random.normal(KEY, (5, V))
    targets = jnp.arange(5)
    total, _ = cross_entropy(logits, targets, jnp.ones(5), label_smoothing=0.2)
    mixed = 0.8 * jax.nn.one_hot(targets, V) + 0.2 / V
    expected = -jnp.sum(mixed * jax.nn.log_softmax(logits))
    assert_close(total, expected, log_softmax_roundings(V) + 2 * V + len(logits))


def test_cross_entropy_keeps_its_digits_where_logits_are_large():
    total, count = cross_entropy(
        jnp.full((1, V), 3e37, jnp.bfloat16), jnp.zeros(1, jnp.int32), jnp.ones(1)
    )
    assert total.dtype == count.dtype == jnp.float32
    assert_close(total, np.log(V), log_softmax_roundings(V))


def test_examples_are_the_packed_sequences():
    segments = np.array([[1, 1, 2, 0], [1, 2, 3, 3], [0, 0, 0, 0]])
    assert TokenTask(evaluator=dict).count_examples({"segment_ids": segments}) == 5


def test_a_sid_decoder_learns_the_rule_and_its_best_is_loaded(tmp_path):
    batch = make_batch(10_000)

    def accuracy(model):
        model_batch = {name: x for name, x in batch.items() if name != "epoch"}
        hidden = model(*(model_batch[name] for name in ("tokens", "positions", "segment_ids")))
        hits = (model.logits(hidden).argmax(-1) == batch["targets"]) * batch["loss_mask"]
        return {"accuracy": float(hits.sum() / batch["loss_mask"].sum())}

    task = TokenTask(evaluator=accuracy, select_metric="accuracy", max_loss_tokens=2)
    optimizer = OptimizerConfig(learning_rate=0.02, warmup_steps=5, weight_decay=0.01)
    config = TrainConfig(
        tmp_path, eval_every=30, checkpoint_every=0, progress=False, tensorboard=False
    )
    result = train(make_model(), task, [Stage("sid", Batches, 60, optimizer)], config)
    assert result.best_metric > 0.8
    assert result.traces == 1
    best = load_best(tmp_path, nnx.eval_shape(make_model))
    assert accuracy(best)["accuracy"] == result.best_metric
