"""Training and search over a mesh; `test_mesh.py` runs this in a process with eight devices."""

import dataclasses
import re

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from kernels.trie import build_trie
from minirec.decoding import BeamSearcher, Buckets
from minirec.models import SidDecoder, SidDecoderConfig
from minirec.models.layers import AddedParam
from minirec.models.lora import LoraConfig, add_adapters
from minirec.models.sharding import AXES, make_mesh, place, put_rows, replicate
from minirec.models.vocabulary import split_rows
from minirec.training import OptimizerConfig, Stage, TokenTask, load_best, train
from minirec.training.checkpoints import Checkpoints, to_arrays
from minirec.training.loop import new_optimizer
from tests.bounds import gamma, log_softmax_roundings, trunk_roundings
from tests.decoding.small import TRUNK, VOCAB, make_model
from tests.training.helpers import config, lines

ROWS, TOKENS, USERS = 16, 12, 13
CONFIG = SidDecoderConfig(dataclasses.replace(TRUNK, dropout=0.1), VOCAB, tie_embeddings=False)
STEPS = (2, 4)
TAIL = 10


def make(seed=0):
    """A language model's shape: biases, an untied head; adapters and some rows stand apart."""
    model = SidDecoder(CONFIG, rngs=nnx.Rngs(seed))
    add_adapters(model, LoraConfig(rank=2), seed=seed)
    split_rows(model, TAIL)
    return model


class Batches:
    """Batch i is drawn by i; the place is i."""

    def __init__(self):
        self.next = 0

    def __iter__(self):
        return self

    def __next__(self):
        random = np.random.default_rng(self.next)
        self.next += 1
        tokens = random.integers(1, VOCAB, (ROWS, TOKENS + 1)).astype(np.int32)
        place = np.tile(np.arange(TOKENS, dtype=np.int32), (ROWS, 1))
        return {
            "tokens": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "loss_mask": random.integers(0, 2, (ROWS, TOKENS)).astype(np.float32),
            "positions": place,
            "segment_ids": np.ones_like(place),
        }

    def get_state(self):
        return self.next

    def set_state(self, state):
        self.next = state


def stages():
    """What was added is trained alone, then all; steps have two parts."""
    optimizer = OptimizerConfig(learning_rate=0.005, weight_decay=0.1, eps=1e-2)
    return [
        Stage(kind.__name__, Batches, num_steps, optimizer, accumulate=2, trainable=kind)
        for kind, num_steps in zip((AddedParam, nnx.Param), STEPS, strict=True)
    ]


def run(folder, mesh):
    """A run whose logits come a few at a time; returns its newest model."""

    def evaluate(model):
        return {"quality": float(model.head[...].sum())}

    model = make()
    settings = config(folder, eval_every=4, checkpoint_every=2, log_every=1)
    task = TokenTask(evaluate, "quality", logits_at_once=4 * ROWS // 2)
    train(model, task, stages(), settings, mesh=mesh)
    return model


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return folder, run(folder, None)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(-1, 4)


@pytest.fixture(scope="module")
def eight(tmp_path_factory, mesh):
    folder = tmp_path_factory.mktemp("eight")
    return folder, run(folder, mesh)


def restored(folder, mesh):
    """(model, optimizer) of the newest checkpoint, on the devices of a mesh."""
    model = make(1)
    place(model, mesh)
    position, model_state, optimizer_state = Checkpoints(folder, keep_last=2).restore_newest(
        model, lambda index: new_optimizer(model, stages()[index], mesh)
    )
    assert position.step == sum(STEPS)
    return to_arrays(model_state), to_arrays(optimizer_state)


def is_split(array):
    return array.addressable_shards[0].data.size * 4 == array.size


def roundings_of_a_step():
    """Roundings on the longest way to a gradient's norm.

    A pass forwards, its two products a layer backwards, and a head; a softmax over the vocabulary;
    a sum over the places of all rows, and one over all parameters.
    """
    through = trunk_roundings(TRUNK, TOKENS) + TRUNK.width
    parameters = sum(array.size for array in to_arrays(nnx.state(make())).values())
    return 3 * through + log_softmax_roundings(VOCAB) + ROWS * TOKENS + parameters


def test_losses_and_evaluations_are_those_of_one_device(one, eight):
    # A step starts where the steps before it have left the parameters. Adam divides by no less
    # than `eps`, so that an error of a gradient, as a share of its norm of about 1, moves a
    # parameter off by `learning_rate / eps` of it at most. Losses and gradients follow parameters
    # with slopes of about 1. So each step's own error comes on top of those before.
    steps, optimizer = sum(STEPS), stages()[0].optimizer
    moved = optimizer.learning_rate / optimizer.eps
    bound = 2 * steps * (1 + moved) * gamma(roundings_of_a_step())
    # What is evaluated is a sum of parameters, of which each is off for itself.
    of_sum = bound * moved * (VOCAB * TRUNK.width) ** 0.5
    kinds = {kind: [lines(run[0], kind) for run in (one, eight)] for kind in ("train", "eval")}
    assert [len(records[1]) for records in kinds.values()] == [6, 3]
    for kind, records in kinds.items():
        allowed = {"rel": bound} if kind == "train" else {"rel": 0, "abs": of_sum}
        for expected, found in zip(*records, strict=True):
            assert expected.keys() == found.keys()
            for name, value in expected.items():
                if isinstance(value, float):
                    value = pytest.approx(value, **allowed)
                assert found[name] == value, name


def test_every_matrix_and_its_moments_are_split_and_every_vector_is_whole(eight, mesh):
    model, optimizer = restored(eight[0], mesh)
    trained = to_arrays(nnx.state(eight[1]))
    adapters = {name for name in model if "adapters" in name}
    wide = {f"{name}.a" for name in ("query", "key", "value", "gate", "up")}
    wide |= {"output.b", "down.b"}
    matrices = [
        name
        for name in model
        if "norm" not in name
        and "bias" not in name
        and (name not in adapters or name.partition("adapters.")[2] in wide)
    ]
    assert len(adapters) == 14
    assert len(matrices) == 9 + 2 + 7
    for name, array in trained.items():
        assert is_split(array) == (name in matrices), name
    for name, array in {**model, **optimizer}.items():
        assert is_split(array) == name.endswith(tuple(matrices)), name


@pytest.mark.parametrize("devices", [1, 2])
def test_a_checkpoint_of_eight_devices_loads_on_fewer(devices, eight, mesh):
    fewer = None if devices == 1 else jax.make_mesh((1, 2), AXES, devices=jax.devices()[:2])
    for expected, found in zip(restored(eight[0], mesh), restored(eight[0], fewer), strict=True):
        assert expected.keys() == found.keys()
        for name, array in found.items():
            assert len(array.devices()) == devices
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
    abstract = nnx.eval_shape(make)
    place(abstract, fewer)
    best = to_arrays(nnx.state(load_best(eight[0], abstract)))
    assert {len(array.devices()) for array in best.values()} == {devices}


def test_search_results_are_those_of_one_device(mesh):
    random = np.random.default_rng(5)
    sids = np.unique(random.integers(2, VOCAB, (40, 2)), axis=0)
    tokens = random.integers(1, VOCAB, (USERS, 8)).astype(np.int32)
    lengths = random.integers(1, 9, USERS).astype(np.int32)
    excluded = random.integers(-1, 40, (USERS, 5))
    allowed = random.random(40) < 0.6
    model, trie = make_model(), build_trie(sids)

    def search(searcher, model, trie, users, allowed):
        return searcher(
            model, tokens[users], lengths[users], trie, excluded=excluded[users], allowed=allowed
        )

    # Two users at a time: what a device has of 13. A matrix product may round otherwise for more.
    by_two = BeamSearcher(num_beams=7, batch_buckets=Buckets(sizes=(2,)))
    parts = [search(by_two, model, trie, slice(n, n + 2), allowed) for n in range(0, USERS, 2)]
    over_mesh = BeamSearcher(num_beams=7, mesh=mesh)
    place(model, mesh)
    trie = replicate(trie, mesh)
    for given in (allowed, np.tile(allowed, (USERS, 1))):
        found = search(over_mesh, model, trie, slice(USERS), given)
        expected = jax.tree.map(lambda *values: np.concatenate(values), *parts)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_parameters_come_together_and_activations_stay_apart(mesh):
    model = make()
    place(model, mesh)
    graph, state = nnx.split(model)
    task = TokenTask(lambda model: {})

    @jax.jit
    def gradient(state, batch):
        def loss(state):
            return task.loss(nnx.merge(graph, state), batch, key=jax.random.key(0))[0]

        return optax.tree.norm(jax.grad(loss)(state))

    with jax.set_mesh(mesh):
        text = gradient.lower(state, put_rows(next(Batches()), mesh)).compile().as_text()
    gathers = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", text)
    matrices = {
        tuple(array.shape[name.startswith("trunk") :])
        for name, array in to_arrays(state).items()
        if is_split(array)
    }
    shapes = {tuple(int(n) for n in shape.split(",") if n != "1") for shape in gathers}
    assert shapes
    assert shapes <= matrices
