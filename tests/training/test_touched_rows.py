"""Steps on the rows of the item table that they touch, against steps on all of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.models import ItemDecoder, ItemDecoderConfig, ItemTerms, TrunkConfig
from minirec.training import (
    ItemTask,
    OptimizerConfig,
    SidPrefixes,
    TextNeighbours,
    make_optimizer,
    make_schedule,
)
from minirec.training.step import TrainStep
from minirec.training.touched_rows import touched_ids
from tests.bounds import assert_close

N, L, B, P, NEGATIVES = 400, 2, 4, 5, 20
V = 2 + 2 * 32
SIDS = np.stack([2 + np.arange(N) // 16, 34 + np.arange(N) % 16], axis=1)
TRUNK = TrunkConfig(num_layers=1, width=16, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=16)
CONFIG = ItemDecoderConfig(dataclasses.replace(TRUNK, dropout=0.1), V, N, L, level_width=8)
TASK = ItemTask(
    lambda model: {},
    SidPrefixes.of(SIDS),
    num_negatives=NEGATIVES,
    train_count=np.arange(N),
)

_RNG = np.random.default_rng(3)
TERMS = ItemTerms(
    _RNG.integers(0, 30, (N, 3)).astype(np.int32), _RNG.random((N, 3)).astype(np.float32), 30
)
# Neighbours that no batch holds, so that a step reads them as replaced targets alone.
NEAR = TextNeighbours(_RNG.integers(60, N, (N, 4)).astype(np.int32), np.ones((N, 4), np.float16))
WITH_TEXT = {"terms": TERMS, "neighbours": NEAR, "neighbour_share": 0.5}


def batches(number, seed=0):
    """Batches of items below 50: the rows above are read where they are drawn alone."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        segment = np.ones((B, P), np.int32)
        segment[0, 3:] = 0
        item = np.where(segment > 0, rng.integers(0, 50, (B, P)), -1).astype(np.int32)
        weight = (segment > 0).astype(np.float32)
        found.append({"item": item, "segment": segment, "target_weight": weight})
    return found


def make_step(*, narrows, accumulate=1, task=TASK, **options):
    config = dataclasses.replace(CONFIG, num_terms=task.terms.num_terms if task.terms else 0)
    model = ItemDecoder(config, rngs=nnx.Rngs(0))
    options = OptimizerConfig(learning_rate=0.01, **options)
    return TrainStep(
        model,
        nnx.Optimizer(model, make_optimizer(options, 10), wrt=nnx.Param),
        task,
        schedule=make_schedule(options, 10),
        accumulate=accumulate,
        seed=0,
        narrows=narrows,
    )


def after(steps, **options):
    """Returns the model and the optimizer's state after some steps, as flat dicts, and losses."""
    step = make_step(**options)
    state, losses = step.start(), []
    for number, batch in enumerate(steps):
        state, metrics = step(state, batch, number)
        losses.append(float(metrics.ratios["loss"][0]))
    assert step.traces == 1
    flat = {}
    for part in state:
        flat |= {path: np.asarray(jnp.asarray(v[...])) for path, v in nnx.to_flat_state(part)}
    return flat, losses


# From a loss to a moment: each sum over the rows of the batch, the negatives and the width, there
# and back. The two programs add the same terms in other orders.
ROUNDINGS = 4 * (B * P + NEGATIVES + 40)


@pytest.mark.parametrize(
    ("accumulate", "generator", "text"),
    [(1, "threefry2x32", {}), (2, "rbg", WITH_TEXT)],
    ids=["plain", "parts with text"],
)
def test_the_first_step_is_that_on_the_whole_table(accumulate, generator, text):
    task = dataclasses.replace(TASK, **text)
    with jax.default_prng_impl(generator):  # Of some the bits are others under vmap.
        (whole, loss), (touched, same) = (
            after(batches(1), narrows=narrows, accumulate=accumulate, task=task)
            for narrows in (False, True)
        )
    assert_close(same[0], loss[0], ROUNDINGS)
    assert whole.keys() == touched.keys()
    for path, value in whole.items():
        if "mu" in path or "nu" in path:
            scale = max(np.abs(value).max(), 1e-30)
            assert_close(touched[path], value, ROUNDINGS, scale=scale)
    moved = touched[("opt_state", 1, 0, "mu", "items")].any(axis=1)
    assert 0 < moved.sum() <= accumulate * NEGATIVES + (2 if text else 1) * B * P
    assert not text or touched[("opt_state", 1, 0, "mu", "terms")].any(axis=1).sum() > 20


def test_rows_that_no_step_reads_stay_as_they_are():
    first = np.asarray(ItemDecoder(CONFIG, rngs=nnx.Rngs(0)).items[...])
    steps = batches(3)
    task = dataclasses.replace(TASK, item_weight=0.0)
    flat, _ = after(steps, narrows=True, task=task, weight_decay=0.5)
    read = np.unique([batch["item"] for batch in steps])
    read = read[read >= 0]
    still = np.setdiff1d(np.arange(N), read)
    assert 10 < len(read) < 50
    np.testing.assert_array_equal(flat[("items",)][still], first[still])
    assert (flat[("items",)][read] != first[read]).any(axis=1).all()


def test_a_small_table_is_learnt_whole():
    keys = jax.random.split(jax.random.key(0), 1)
    inputs = batches(1)[0]
    assert set(TASK.touched_rows(inputs, keys)) == {"items"}
    many = dataclasses.replace(TASK, num_negatives=N // 4)
    assert many.touched_rows(inputs, keys) == {}
    everything = dataclasses.replace(TASK, num_negatives=0)
    assert everything.touched_rows(inputs, keys) == {}


def test_touched_ids_are_each_once_and_those_of_no_row_past_the_end():
    ids = np.asarray(touched_ids(jnp.array([[7, 3, -1], [3, 9, 12]], jnp.int32), 9))
    np.testing.assert_array_equal(ids[:2], [3, 7])
    assert (ids[2:] >= 9).all()
    assert (np.diff(ids) > 0).all()


def test_terms_and_neighbours_are_arguments_of_the_step_and_no_constants():
    step, batch = (
        make_step(narrows=True, task=dataclasses.replace(TASK, **WITH_TEXT)),
        batches(1)[0],
    )
    arguments = step.lower(step.start(), batch, 0).in_avals[0][2]
    shapes = [leaf.shape for leaf in jax.tree.leaves(arguments)]
    for table in (TERMS, NEAR):
        for array in jax.tree.leaves(table):
            assert array.shape in shapes
    without = make_step(narrows=True, task=dataclasses.replace(TASK, neighbours=NEAR))
    assert len(jax.tree.leaves(without.tables)) == len(jax.tree.leaves(SidPrefixes.of(SIDS)))
