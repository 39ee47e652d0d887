"""The loss of packed prompts and answers is that of padded ones, and of answers alone."""

import jax
import numpy as np
import pytest
from flax import nnx

from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from minirec.training import TokenTask
from pipelines.text.sft_batches import SftConfig, sft_batches
from tests.bounds import assert_close, log_softmax_roundings, trunk_roundings
from tests.pipelines.text_data import sid_table, templates, text_log, tokenizer

TRUNK = TrunkConfig(
    num_layers=2, width=16, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=32, qk_norm=True
)


@pytest.fixture(scope="module")
def model():
    config = SidDecoderConfig(trunk=TRUNK, vocab_size=tokenizer().size)
    return nnx.jit(lambda: SidDecoder(config, rngs=nnx.Rngs(0)))()


def epoch(pack):
    """All examples as one batch."""
    config = SftConfig(1, row_tokens=130, max_items=6, pack=pack, num_threads=0)
    args = (text_log(12), sid_table(), tokenizer(), templates())
    num_rows = sft_batches(*args, config, seed=0).num_rows
    config = SftConfig(num_rows, row_tokens=130, max_items=6, pack=pack, num_threads=0)
    batches = sft_batches(*args, config, seed=0)
    return batches.batch_at(0), batches.num_examples


TASK = TokenTask(evaluator=dict)


@nnx.jit
def loss(model, inputs):
    return TASK.loss(model, inputs, key=None)[:2]


def loss_of(model, batch):
    return jax.device_get(loss(model, TASK.inputs(batch)))


def test_packed_examples_have_the_loss_of_padded_ones_and_of_their_answers_alone(model):
    (packed, examples), (padded, _) = epoch(pack=True), epoch(pack=False)
    assert len(packed["rows"]) < len(padded["rows"]) / 1.5
    assert packed["segment_ids"].max(axis=1).sum() == len(padded["rows"]) == examples
    total, count = loss_of(model, packed)
    alone, as_many = loss_of(model, padded)
    assert count == as_many == packed["loss_mask"].sum()
    through = trunk_roundings(TRUNK, packed["tokens"].shape[1]) + TRUNK.width
    assert_close(total, alone, through + log_softmax_roundings(tokenizer().size) + int(count))
    # Neighbours matter where segments are not told apart: the comparison can see it.
    merged = dict(packed, segment_ids=(packed["segment_ids"] > 0).astype(np.int32))
    assert abs(loss_of(model, merged)[0] / count - alone / as_many) > 1e-4
    # What the prompts' places are to predict changes nothing.
    targets = np.where(packed["loss_mask"] > 0, packed["targets"], 7).astype(np.int32)
    assert loss_of(model, dict(packed, targets=targets))[0] == total
