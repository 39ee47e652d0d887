"""The losses of a feed against plain loops over their candidates."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.models import TrunkConfig
from minirec.models.feed import FeedModel
from minirec.models.hash_embedding import hash_buckets, ids_of
from minirec.models.ranker import Events, RankerConfig
from minirec.models.two_tower import TwoTowerConfig
from minirec.training.tasks.feed_task import FeedTask, gaps

N, ACTIONS = 30, 2
WEIGHTS = (1.0, 5.0)
TRUNK = TrunkConfig(num_layers=1, width=16, num_heads=1, num_kv_heads=1, head_dim=16, mlp_width=16)
# Sums of some 400 float32 losses below 50: their last bits, and those of the model's own sums.
CLOSE = {"rel": 1e-4}


@pytest.fixture(scope="module")
def model():
    tables = {"num_actions": ACTIONS, "num_identities": 1, "num_buckets": 64, "hash_width": 8}
    return FeedModel(
        RankerConfig(TRUNK, **tables), TwoTowerConfig(TRUNK, **tables, width=8), rngs=nnx.Rngs(0)
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    segment = np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1, 1]], np.int32)
    item = np.where(segment > 0, rng.integers(0, 8, segment.shape), -1).astype(np.int32)
    event = np.where(segment > 0, rng.integers(0, ACTIONS, segment.shape), -1).astype(np.int32)
    time = np.where(segment > 0, np.cumsum(rng.integers(1, 9999, segment.shape), axis=1), -1)
    weight = (segment > 0).astype(np.float32)
    weight[1, :3] = 0.0  # Context alone.
    weight[1, 5] = 2.0
    fields = {"item": item, "event": event, "time": time, "segment": segment}
    return fields | {"target_weight": weight}


def task_of(**options):
    identities = hash_buckets(ids_of(map(str, range(N))), 64, 2)[:, None]
    counts = np.arange(N) + 1
    return FeedTask(lambda model: {}, identities, counts, WEIGHTS, **options)


def lossed(task, model, batch):
    inputs = {name: jnp.asarray(value) for name, value in task.inputs(batch).items()}
    key = jax.random.key(5)
    held = task.with_tables(jax.tree.map(jnp.asarray, task.tables))
    return held, inputs, key, jax.jit(lambda key: held.loss(model, inputs, key=key))(key)


def test_losses_are_those_of_loops_over_the_candidates(model, batch):
    options = {"num_recent": 3, "num_negatives": 4, "num_shared": 2, "num_retrieved": 6}
    task = task_of(**options)
    held, inputs, key, (total, count, parts) = lossed(task, model, batch)
    events = Events(inputs["item"], inputs["event"], inputs["gap"], inputs["segment"])
    names = ("ranker", "towers", "drawn", "shared", "all", "known")
    keys = dict(zip(names, jax.random.split(key, 6), strict=True))
    weight = batch["target_weight"]
    found = held._candidates(events, jnp.asarray(weight), keys)
    candidates, is_one, log_expected = (np.asarray(array) for array in found)
    logits = np.asarray(model.ranker(events, held.identities, jnp.asarray(candidates)))
    lots = [np.asarray(lot.share) for lot in (held.drawn, held.shared)]
    next_loss = action_loss = 0.0
    item, segment = batch["item"], batch["segment"]
    in_batch = set(item[weight > 0].tolist())
    for row, place in np.argwhere(weight > 0):
        target = item[row, place]
        same = segment[row] == segment[row, place]
        past = [item[row, at] for at in range(place) if same[at]][::-1][:3]
        listed = {}  # By item: what is taken off its logit.
        for number, candidate in enumerate(candidates[row, place].tolist()):
            if number == 0:
                assert candidate == target
                kept, off = True, 0.0
            elif number <= 3:
                first = number <= len(past) and candidate not in past[: number - 1]
                kept, off = first and candidate != target, 0.0
                assert not kept or candidate == past[number - 1]
            else:
                kept = candidate != target and candidate not in past
                off = math.log(4 * lots[0][candidate] + 2 * lots[1][candidate])
                assert number < 8 or candidate in in_batch
            assert is_one[row, place, number] == kept
            assert log_expected[row, place, number] == pytest.approx(off, abs=1e-5)
            if kept:
                listed[number] = logits[row, place, number].astype(np.float64), off
        scores = np.array([values[-1] - off for values, off in listed.values()])
        next_loss += weight[row, place] * (np.log(np.exp(scores).sum()) - listed[0][0][-1])
        for action, of_action in enumerate(WEIGHTS):
            done = batch["event"][row, place] == action
            one = sum(
                math.log1p(math.exp(values[action])) / math.exp(off)
                for values, off in listed.values()
            )
            one -= done * listed[0][0][action]
            action_loss += weight[row, place] * of_action * one
    assert float(count) == weight.sum()
    assert float(parts["next_loss"][0]) == pytest.approx(next_loss, **CLOSE)
    assert float(parts["action_loss"][0]) == pytest.approx(action_loss, **CLOSE)
    retrieval = float(parts["retrieval_loss"][0])
    assert float(total) == pytest.approx(next_loss + 0.1 * action_loss + retrieval, **CLOSE)


def test_the_towers_loss_over_all_items_is_cross_entropy(model, batch):
    task = task_of(num_retrieved=N, next_weight=0.0, action_weight=0.0)
    held, inputs, _, (total, _, parts) = lossed(task, model, batch)
    assert set(parts) == {"retrieval_loss"}
    events = Events(inputs["item"], inputs["event"], inputs["gap"], inputs["segment"])
    users = model.towers.users(events, held.identities)
    items = model.towers.items(jnp.arange(N), held.identities)
    np.testing.assert_allclose(jnp.sum(items**2, axis=-1), 1.0, rtol=1e-5)
    share = jax.nn.log_softmax(model.towers.scale * users @ items.T, axis=-1)
    weight = batch["target_weight"]
    own = np.take_along_axis(np.asarray(share), np.maximum(batch["item"], 0)[..., None], -1)[..., 0]
    assert float(total) == pytest.approx(-(own * weight).sum(), **CLOSE)


def test_what_pads_a_row_changes_no_loss_and_what_is_context_alone_is_no_target(model, batch):
    task = task_of(num_negatives=1, num_shared=0)
    *_, (total, count, _) = lossed(task, model, batch)
    other = {name: value.copy() for name, value in batch.items()}
    other["item"][0, -1], other["event"][0, -1], other["time"][0, -1] = 3, 1, 10**9
    *_, (again, same, _) = lossed(task, model, other)
    assert float(again) == pytest.approx(float(total), rel=1e-6)
    assert float(same) == float(count)
    # The last of the context is seen by the targets behind it, and is no target itself.
    nothing = {name: value.copy() for name, value in batch.items()}
    nothing["target_weight"][1, 3:] = 0.0
    nothing["target_weight"][0] = 0.0
    *_, (none, of_none, _) = lossed(task, model, nothing)
    assert (float(none), float(of_none)) == (0.0, 0.0)
    context = {name: value.copy() for name, value in batch.items()}
    context["item"][1, 2] = (context["item"][1, 2] + 1) % 8
    *_, (moved, _, _) = lossed(task, model, context)
    assert float(moved) != float(total)


def test_an_identity_that_is_dropped_leaves_the_others_to_speak(model, batch):
    task = task_of(identity_dropout=0.999)
    held, *_ = lossed(task, model, batch)
    known = np.asarray(held._known(jax.random.key(0)))
    assert (known == 0).mean() > 0.9


def test_gaps_are_within_examples_and_bounded():
    time = np.array([[5, 9, 2, 2**40, -1]])
    segment = np.array([[1, 1, 2, 2, 0]])
    assert gaps(time, segment).tolist() == [[0, 4, 0, 2**31 - 1, 0]]
    backwards = gaps(np.array([[9, 5]]), np.array([[1, 1]]))
    assert backwards.tolist() == [[0, 0]]


def test_impossible_options_and_unknown_events_are_named(batch):
    with pytest.raises(ValueError, match="num_recent"):
        task_of(num_recent=-1)
    with pytest.raises(ValueError, match="identity_dropout"):
        task_of(identity_dropout=1.0)
    wrong = batch | {"event": batch["event"] + ACTIONS}
    with pytest.raises(ValueError, match="event type"):
        task_of().inputs(wrong)
