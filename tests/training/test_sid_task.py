"""The loss over a batch of items is the one over their tokens, written out by hand."""

import jax
import numpy as np
import pytest
from flax import nnx

from minirec.models import SidDecoder, SidDecoderConfig
from minirec.models.sid_reader import token_prompts, token_rows
from minirec.sids import SidVocab
from minirec.training import SidTask, TokenTask
from tests.bounds import assert_close, log_softmax_roundings
from tests.decoding.small import TRUNK

V, L, P = 14, 3, 6
TABLE = np.random.default_rng(0).integers(2, V, (9, L))
CONFIG = SidDecoderConfig(TRUNK, V)
# Two examples in the first row, and one that fills the second.
ITEM = np.array([[4, 1, 7, 0, 8, -1], [2, 2, 5, 6, 3, 1]], np.int32)
SEGMENT = np.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]], np.int32)
WEIGHT = np.array([[0, 2, 0, 0.5, 0, 0], [0, 0, 1, 0, 0, 3]], np.float32)
BATCH = {"item": ITEM, "segment": SEGMENT, "target_weight": WEIGHT, "epoch": "not for the device"}


def by_hand():
    """The same rows as tokens."""
    fields = ("tokens", "targets", "positions", "segment_ids")
    rows = {name: np.zeros((2, P * L), np.int32) for name in fields}
    for row in range(2):
        for number in range(1, SEGMENT[row].max() + 1):
            places = np.flatnonzero(SEGMENT[row] == number)
            at = slice(places[0] * L, (places[-1] + 1) * L)
            flat = TABLE[ITEM[row, places]].reshape(-1)
            rows["tokens"][row, at] = [SidVocab.BOS, *flat[:-1]]
            rows["targets"][row, at] = flat
            rows["positions"][row, at] = np.arange(len(flat))
            rows["segment_ids"][row, at] = number
    return rows


@pytest.fixture(scope="module")
def model():
    return SidDecoder(CONFIG, rngs=nnx.Rngs(0))


def loss_of(task, model, batch):
    loss = jax.jit(lambda model, inputs: task.loss(model, inputs, key=None))
    return jax.device_get(loss(model, task.inputs(batch)))


def test_rows_of_items_become_rows_of_tokens():
    rows = token_rows(ITEM, SEGMENT, jax.numpy.asarray(TABLE))
    for name, expected in by_hand().items():
        np.testing.assert_array_equal(getattr(rows, name), expected)


def test_histories_become_prompts():
    tokens, lengths = token_prompts(ITEM, np.array([0, 4]), jax.numpy.asarray(TABLE))
    assert lengths.tolist() == [1, 1 + 4 * L]
    np.testing.assert_array_equal(tokens[:, 0], SidVocab.BOS)
    np.testing.assert_array_equal(tokens[1, 1 : 1 + 4 * L], TABLE[ITEM[1, :4]].reshape(-1))
    assert not np.asarray(tokens[0, 1:]).any()
    assert not np.asarray(tokens[1, 1 + 4 * L :]).any()


@pytest.mark.parametrize("max_targets", [None, 2])
def test_the_loss_is_that_of_the_targets_tokens(model, max_targets):
    tokens = by_hand() | {"loss_mask": np.repeat(WEIGHT, L, axis=1)}
    expected = loss_of(TokenTask(dict, label_smoothing=0.1), model, tokens)
    task = SidTask(dict, TABLE, label_smoothing=0.1, max_targets=max_targets)
    found = loss_of(task, model, BATCH)
    # The trunk is the same; a product of another shape, the softmax and the sums may differ.
    roundings = CONFIG.trunk.width + log_softmax_roundings(V) + V + 2 * P * L
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert_close(other, one, roundings)


def test_other_tables_are_another_loss_of_the_same_program(model):
    task = SidTask(dict, TABLE)
    inputs = task.inputs(BATCH)
    loss = jax.jit(lambda tables: task.with_tables(tables).loss(model, inputs, key=None)[0])
    assert loss(task.tables) == loss_of(task, model, BATCH)[0]
    other = (TABLE + 3) % (V - 2) + 2
    assert loss(other) == loss_of(SidTask(dict, other), model, BATCH)[0] != loss(task.tables)


def test_what_a_batch_lacks_or_asks_too_much_of_is_named():
    task = SidTask(dict, TABLE, max_targets=1)
    with pytest.raises(ValueError, match=r"row 0: target_weight asks for 2 items.*=1 allows fewer"):
        task.inputs(BATCH)
    with pytest.raises(ValueError, match="batch lacks 'segment'"):
        task.inputs({"item": ITEM})
    with pytest.raises(ValueError, match=r"holds the items 1 to 9; must lie in \[0, 9\)"):
        task.inputs(BATCH | {"item": ITEM + 1})
    with pytest.raises(ValueError, match=r"SidTask\.max_targets=0"):
        SidTask(dict, TABLE, max_targets=0)


def test_examples_are_the_packed_histories():
    assert SidTask(dict, TABLE).count_examples(BATCH) == 3
