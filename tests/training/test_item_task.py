"""The item decoder's losses against what a search says, and against plain formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kernels.trie import build_trie
from minirec.decoding import beam_search
from minirec.models import ItemDecoder, ItemReader
from minirec.training import ItemTask, SidPrefixes, TextNeighbours
from minirec.training.tasks.item_task import _masked_cross_entropy, _sampled_cross_entropy
from tests.bounds import assert_close, log_softmax_roundings, trunk_roundings
from tests.models.test_item_decoder import CONFIG, SIDS, L, N, V, prompts

KEY = jax.random.key(0)
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PREFIXES = SidPrefixes.of(SIDS)
# From tokens to a loss: the sum of an item's embeddings, a norm, the trunk over the longest
# history; for each level a gated layer; logits, their softmax, and a sum over what was asked for.
_LEVEL = 2 * CONFIG.trunk.width + CONFIG.level_width + 20
THROUGH = L + 1 + 20 + trunk_roundings(CONFIG.trunk, 6) + L * (_LEVEL + CONFIG.trunk.width)
THROUGH += L * log_softmax_roundings(N) + 5
# The model's logits are some 40 at most, by embeddings 40 times as large as at the start, and the
# weights of what is asked for add up to 4.5.
SCALE = 4.5 * 40


@pytest.fixture(scope="module")
def model():
    model = ItemDecoder(CONFIG, rngs=nnx.Rngs(0))
    for parameter in (model.embedding, model.items):
        parameter[...] = parameter[...] * 40
    return model


def make_task(**fields):
    return ItemTask(lambda model: {}, PREFIXES, **fields)


def make_batch(histories, weights):
    """A row a history, loss on all items with a weight."""
    shape = (len(histories), max(map(len, histories)))
    item, segment = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    target_weight = np.zeros(shape, np.float32)
    for row, (items, weight) in enumerate(zip(histories, weights, strict=True)):
        item[row, : len(items)] = items
        segment[row, : len(items)] = 1
        target_weight[row, : len(items)] = weight
    fields = {"item": item, "segment": segment, "target_weight": target_weight}
    return fields | {"epoch": "not for the device"}


HISTORIES = [[3, 1, 4], [5, 9], [2, 6, 0, 7]]
WEIGHTS = [[0, 1, 2], [0, 1], [0, 0, 0, 0.5]]


@functools.cache
def losses(task, model_of):
    """The task's sums for HISTORIES, as floats."""
    inputs = task.inputs(make_batch(HISTORIES, WEIGHTS))
    total, count, parts = fast_jit(lambda m, b: task.loss(m, b, key=KEY))(model_of(), inputs)
    return float(total), float(count), {name: float(part[0]) for name, part in parts.items()}


def test_a_sids_loss_is_what_a_search_says_of_it(model):
    trie = build_trie(SIDS, codebook_sizes=[V] * L)
    search = fast_jit(functools.partial(beam_search, num_beams=N, normalize="children"))
    expected = 0.0
    for items, weights in zip(HISTORIES, WEIGHTS, strict=True):
        for end, weight in enumerate(weights):
            if weight:
                result = search(ItemReader(model, SIDS), *prompts([items[:end]]), trie)
                place = int(np.flatnonzero(result.item[0] == items[end])[0])
                expected -= weight * float(result.item_score[0, place])
    total, count, parts = losses(make_task(item_weight=0.0), lambda: model)
    assert parts == {"sid_loss": total}
    assert count == 4.5
    assert_close(total, expected, THROUGH, scale=SCALE)


def test_an_items_loss_is_cross_entropy_over_the_catalogue(model):
    read = fast_jit(lambda m, *a: m.item_logits(m.read(*a, SIDS)))
    expected = 0.0
    for items, weights in zip(HISTORIES, WEIGHTS, strict=True):
        for end, weight in enumerate(weights):
            if weight:
                logits = read(model, *prompts([items[:end]]))
                expected -= weight * float(jax.nn.log_softmax(logits[0])[items[end]])
    _, _, parts = losses(make_task(), lambda: model)
    assert_close(parts["item_loss"], expected, THROUGH, scale=SCALE)


def test_losses_at_the_places_asked_for_alone_are_the_same(model):
    weights = [[0, 1, 0], [0, 2], [0, 0, 0, 0.5]]
    results = []
    for most in (None, 1, 4):  # 4: as many as there are places, in another order.
        task = make_task(max_targets=most)
        inputs = task.inputs(make_batch(HISTORIES, weights))
        results.append(fast_jit(lambda m, b, task=task: task.loss(m, b, key=KEY))(model, inputs))
    totals = [result[0] for result in results]
    assert_close(totals, np.full(3, totals[0]), THROUGH, scale=2 * SCALE)  # Both losses' sum.
    with pytest.raises(ValueError, match="row 0: target_weight asks for 2 items"):
        make_task(max_targets=1).inputs(make_batch(HISTORIES, WEIGHTS))


def test_weights_and_smoothing_of_the_parts(model):
    plain, smooth = (
        losses(make_task(sid_weight=0.5, item_weight=3.0, label_smoothing=share), lambda: model)
        for share in (0.0, 0.1)
    )
    for total, _, parts in (plain, smooth):
        weighted = 0.5 * parts["sid_loss"] + 3.0 * parts["item_loss"]
        assert_close(total, weighted, 4)  # Two products, a sum, and a sum of weights.
    assert smooth != plain


def test_smoothing_spreads_over_the_codes_behind_a_prefix():
    rng = np.random.default_rng(3)
    logits, allowed = rng.normal(size=(5, 6)), rng.random((5, 6)) < 0.6
    code = np.arange(5)
    allowed[code, code] = True
    weight = rng.random(5)
    expected = 0.0
    for n in range(5):
        inside = logits[n, allowed[n]]
        logs = logits[n] - np.log(np.exp(inside).sum())
        spread = 0.8 * logs[code[n]] + 0.2 * logs[allowed[n]].mean()
        expected -= weight[n] * spread
    arrays = [jnp.asarray(array) for array in (logits, code, weight, allowed)]
    # 5 rows of 6 codes; what is taken to float32 first is one rounding more.
    found = _masked_cross_entropy(*arrays, 0.2)
    assert_close(found, expected, 1 + log_softmax_roundings(6) + 6 + 5, scale=5 * abs(logits).max())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_target_that_was_drawn_counts_once(smoothing):
    rng = np.random.default_rng(6)
    own, others, weight = rng.normal(size=4) * 5, rng.normal(size=(4, 7)) * 5, rng.random(4)
    is_other = rng.random((4, 7)) < 0.7
    is_other[0] = False  # Nothing but the target was drawn.
    expected = 0.0
    for n in range(4):
        logits = np.append(others[n, is_other[n]], own[n])
        logs = logits - np.log(np.exp(logits).sum())
        expected -= weight[n] * ((1 - smoothing) * logs[-1] + smoothing * logs.mean())
    arrays = [jnp.asarray(array) for array in (own, others, weight, is_other)]
    found = _sampled_cross_entropy(*arrays, smoothing)
    scale = 4 * max(abs(own).max(), abs(others).max())
    assert_close(found, expected, 1 + 2 * log_softmax_roundings(8) + 8 + 4, scale)


def test_drawn_negatives_keep_the_normaliser_unbiased(model):
    counts = np.arange(N) ** 2
    task = make_task(num_negatives=8, train_count=counts)
    logits = np.random.default_rng(4).normal(size=N).astype(np.float32)

    def normaliser(key):
        drawn, log_expected = task._draw(key)
        return jnp.sum(jnp.exp(jnp.asarray(logits)[drawn] - log_expected))

    sums = np.asarray(jax.vmap(normaliser)(jax.random.split(KEY, 4000)))
    error = sums.std() / np.sqrt(len(sums))
    assert abs(sums.mean() - np.exp(logits).sum()) < 4 * error
    # And the target itself is never among its own negatives: then the loss could reach 0 only by
    # telling an item from itself.
    assert losses(task, lambda: model)[2]["item_loss"] > 0


def test_gradients_reach_every_parameter(model):
    task = make_task()
    inputs = task.inputs(make_batch(HISTORIES, WEIGHTS))
    graph, state = nnx.split(model)

    def loss(state):
        return task.loss(nnx.merge(graph, state), inputs, key=KEY)[0]

    grads = nnx.to_flat_state(fast_jit(jax.grad(loss))(state))
    still = [path for path, grad in grads if not np.abs(np.asarray(grad[...])).max() > 0]
    assert still == []


def test_a_replaced_target_is_another_target_for_both_losses(model):
    # Every item's one neighbour is the next, three times over: the newest item alone sums up to the
    # 3 from which on the share is the whole one.
    item = (np.arange(N)[:, None] + np.array([[1, 1, 1]])) % N
    near = TextNeighbours(item.astype(np.int32), np.ones((N, 3), np.float16))
    task = make_task(neighbours=near, neighbour_share=1.0)
    histories = [[3, 3, 4], [5, 5, 9], [2, 6, 6, 7]]
    weights = [[0, 0, 2], [0, 0, 1], [0, 0, 0, 0.5]]
    found, expected = (
        fast_jit(lambda m, b, t=t: t.loss(m, b, key=KEY))(
            model, t.inputs(make_batch(rows, weights))
        )
        for t, rows in ((task, histories), (make_task(), [[3, 3, 4], [5, 5, 6], [2, 6, 6, 7]]))
    )
    assert_close(found[0], expected[0], THROUGH, scale=2 * SCALE)
    assert_close(found[2]["sid_loss"][0], expected[2]["sid_loss"][0], THROUGH, scale=SCALE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"neighbour_share": 1.5}, r"neighbour_share=1.5: must lie in"),
        ({"neighbour_share": 0.1}, r"neighbour_share=0.1: needs neighbours"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1.0"),
        ({"item_weight": -1.0}, r"item_weight=-1.0"),
        ({"item_weight": 0.0, "sid_weight": 0.0}, r"both 0"),
        ({"num_negatives": 5}, r"needs train_count"),
    ],
)
def test_impossible_settings_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        make_task(**fields)


def test_a_batch_of_something_else_is_an_error():
    batch = make_batch(HISTORIES, WEIGHTS)
    with pytest.raises(ValueError, match=r"lacks 'segment'"):
        make_task().inputs({name: batch[name] for name in batch if name != "segment"})
    with pytest.raises(ValueError, match=r"must lie in \[0, 20\)"):
        make_task().inputs(batch | {"item": batch["item"] + 15})


def test_the_bits_of_a_prefix_are_the_codes_behind_it():
    rng = np.random.default_rng(5)
    # More than a word of codes, some of them unused.
    sids = np.unique(rng.integers(0, 70, (300, L)) * [1, 3, 1] % [9, 200, 50], axis=0)
    sids = sids + np.array([0, 1000, 2000])
    prefixes = SidPrefixes.of(sids)
    items = rng.integers(0, len(sids), (4, 5))
    assert prefixes.allowed(items, 0) is None
    for level in range(L):
        tokens = prefixes.tokens[level]
        np.testing.assert_array_equal(tokens[prefixes.codes[:, level]], sids[:, level])
        if level:
            allowed = np.asarray(prefixes.allowed(items, level))
            for place in np.ndindex(items.shape):
                same = (sids[:, :level] == sids[items[place], :level]).all(axis=1)
                assert set(tokens[allowed[place]]) == set(sids[same, level])


def test_one_level_has_no_bits():
    assert SidPrefixes.of(np.arange(6)[:, None] + 2).following == ()
