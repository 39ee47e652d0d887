"""The gradient of the step's scores, against autodiff of the reference and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kernels.beam_step import Beams, beam_select, beam_step, reference, xla
from kernels.trie import DEAD_NODE, build_trie
from tests.kernels.brute_force import EPS, INF

pytestmark = pytest.mark.usefixtures("interpreted_alone")

NAN = np.float32(np.nan)
B, M, V, L, NUM_BEAMS = 2, 5, 16, 3, 4
MODES = ("vocab", "children", "given")
TRIE = build_trie(np.random.default_rng(0).integers(0, V, (200, L)))
# A few additions of numbers below 8, and a sum of V terms.
BOUND = 8 * V * EPS


def case(level=1, seed=1):
    """Returns logits, beams, a normaliser, and a weight of each new beam's score."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    beams = Beams.root(B, M)
    for above in range(level):
        logits = normal(B, M, V)
        beams = beam_step(logits, beams, TRIE, above, num_beams=M, implementation="xla").beams
    node, score = np.array(beams.node), normal(B, M)
    node[:, -1], score[:, -1] = DEAD_NODE, -INF  # The last beam is dead.
    logits = 2 * normal(B, M, V)
    return logits, Beams(node=node, score=score), normal(B, M), normal(B, NUM_BEAMS)


def alive(score):
    return jnp.where(jnp.isfinite(score), score, 0.0)


def loss(step, mode, level, weight, logits, score, normalizer, node, trie, live=None):
    """Returns a weighted sum of the new scores, by the reference or by the public function."""
    mode = {"given": {"normalize": "vocab", "log_normalizer": normalizer}}.get(
        mode, {"normalize": mode, "log_normalizer": None}
    )
    beams = Beams(node=node, score=score)
    new = step(logits, beams, trie, level, num_beams=NUM_BEAMS, live=live, **mode)
    return jnp.sum(weight * alive(new.score))


@functools.cache
def values_and_gradients(implementation, mode, level):
    """Returns the jitted loss with its gradients; by autodiff of the reference for None.

    All cases of one kind share it, so it is compiled once.
    """
    step = functools.partial(beam_step, implementation=implementation)
    if implementation is None:
        step = reference.beam_step
    function = functools.partial(loss, step, mode, level)
    return jax.jit(jax.value_and_grad(function, argnums=(1, 2, 3)))


def gradients(implementation, mode, level, *arrays):
    return jax.device_get(values_and_gradients(implementation, mode, level)(*arrays)[1])


def close(got, expected, bound=BOUND):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=bound), got, expected)


def live_of(mode, trie):
    """Returns a filter that leaves everything, for the mode whose programs filter; else None."""
    return trie.live_excluding(np.full((B, 50), -1, np.int32)) if mode == "children" else None


@functools.cache
def reference_gradients(mode, level, filtered):
    """Returns the case of a level and autodiff's answer, which is the same for all."""
    logits, beams, normalizer, weight = case(level)
    live = TRIE.live_excluding(np.arange(100, dtype=np.int32).reshape(B, 50)) if filtered else None
    arrays = (weight, logits, beams.score, normalizer, beams.node, TRIE, live)
    return arrays, gradients(None, mode, level, *arrays)


# All modes; over the children with a filter, which leaves the normaliser's gradient whole. At one
# level, as the backward pass takes the level's children and nothing else of it: the first level and
# the last are those of `beam_select` below.
@pytest.mark.parametrize("mode", MODES)
def test_it_is_what_autodiff_of_the_reference_gives(implementation, mode):
    arrays, expected = reference_gradients(mode, 1, filtered=mode == "children")
    close(gradients(implementation, mode, 1, *arrays), expected)
    assert np.abs(expected[0]).max() > 0.1


@functools.cache
def select_gradients(implementation, level):
    step = functools.partial(beam_select, implementation=implementation)
    if implementation is None:
        step = reference.beam_select

    def total(log_probs, score, node, weight):
        beams = Beams(node=node, score=score)
        new = step(log_probs, beams, TRIE, level, num_beams=NUM_BEAMS, live=None)
        return jnp.sum(weight * alive(new.score))

    return jax.jit(jax.grad(total, argnums=(0, 1)))


@pytest.mark.parametrize("level", [0, 2])
def test_beam_select_hands_it_to_the_candidates(implementation, level):
    _, beams, _, weight = case(level)
    shape = (B, M, TRIE.max_children(level))
    log_probs = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    arrays = (log_probs, beams.score, beams.node, weight)
    got = jax.device_get(select_gradients(implementation, level)(*arrays))
    close(got, select_gradients(None, level)(*arrays))
    assert np.any(got[0])


@pytest.mark.parametrize("mode", MODES)
def test_finite_differences_agree(mode):
    logits, beams, normalizer, weight = case()

    def total(logits, score, normalizer):
        return loss(beam_step, mode, 1, weight, logits, score, normalizer, node, TRIE)

    node = beams.node[:, :-1]  # The last beam's score is -inf, and has no neighbours.
    sound = (logits[:, :-1], beams.score[:, :-1], normalizer[:, :-1])
    check_grads(jax.jit(total), sound, order=1, modes=["rev"], eps=2e-3, atol=1e-2, rtol=2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_broken_rows_and_dead_beams_have_the_gradient_zero(implementation, mode):
    logits, beams, normalizer, weight = case()
    # Row 0 holds NaN, row 1 +inf, row 2 nothing but -inf; in row 3 a child is impossible.
    logits[0, 0, 3], logits[0, 1, 5], logits[0, 2] = NAN, INF, -INF
    logits[1, 3, np.asarray(TRIE.children(beams.node[1, 3], 1).token)[0]] = -INF
    normalizer[1, 0] = NAN
    score = beams.score.copy()
    score[1, 1] = NAN
    arrays = (weight, logits, score, normalizer, beams.node, TRIE, live_of(mode, TRIE))
    got = gradients(implementation, mode, 1, *arrays)
    assert all(np.isfinite(array).all() for array in got)
    assert not np.any(got[0][0, :3])
    assert not np.any(got[1][0, :3])
    assert not np.any(got[0][:, -1])
    assert not np.any(got[0][1, 1])
    assert np.any(got[0][0])
    # The reference's autodiff multiplies zero by NaN in such rows; so they are made sound, dead.
    node = beams.node.copy()
    node[0, :3] = node[1, 1] = DEAD_NODE
    if mode == "given":
        node[1, 0] = DEAD_NODE
    sound = np.where(np.isfinite(logits), logits, np.float32(-1e9))
    sound[0, :3] = 0.0
    rest = (np.nan_to_num(score), np.nan_to_num(normalizer), node, TRIE, live_of(mode, TRIE))
    close(got, gradients(None, mode, 1, weight, sound, *rest))


def test_what_is_asked_of_a_dead_beam_changes_nothing():
    logits, beams, _, _ = case()

    def total(logits, score, factor):
        new = beam_step(logits, Beams(beams.node, score), TRIE, 1, num_beams=M * V)
        return jnp.sum(jnp.where(new.node == DEAD_NODE, factor, 1.0) * jnp.exp(new.score))

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    got = gradient(logits, beams.score, NAN)
    close(got, gradient(logits, beams.score, np.float32(1.0)), bound=0)
    assert np.any(got[0])


def test_an_only_child_hands_on_its_parents_gradient(implementation):
    # Its log-probability among the children is 0, and so is its score: no constant for all that.
    trie = build_trie([(3, 1, 0)], capacities=TRIE.capacities)
    node = np.full((B, M), DEAD_NODE, np.int32)
    node[0, 0] = trie.node_of([3])
    zeros, weight = np.zeros((B, M), np.float32), np.zeros((B, NUM_BEAMS), np.float32)
    weight[0, 0] = 1.0
    live = live_of("children", trie)
    arrays = (weight, np.zeros((B, M, V), np.float32), zeros, zeros, node, trie, live)
    value, (_, by_score, _) = values_and_gradients(implementation, "children", 1)(*arrays)
    assert value == 0.0
    assert by_score.tolist() == [[1.0, *[0.0] * (M - 1)], [0.0] * M]


def test_bfloat16_logits_get_bfloat16_gradients(implementation):
    logits, beams, normalizer, weight = case()
    low = logits.astype(jnp.bfloat16)
    rest = (beams.score, normalizer, beams.node, TRIE)
    got = gradients(implementation, "vocab", 1, weight, low, *rest)
    high = gradients(implementation, "vocab", 1, weight, low.astype(np.float32), *rest)
    assert got[0].dtype == jnp.bfloat16
    assert np.array_equal(got[0], high[0].astype(jnp.bfloat16))
    close(got[1:], high[1:])


def test_a_whole_search_is_differentiable_under_jit_with_the_trie_an_argument():
    random = np.random.default_rng(5)
    logits = jnp.asarray(random.normal(size=(L, B, M, V)), jnp.float32)
    weight = jnp.asarray(random.normal(size=(B, M)), jnp.float32)

    def total(step, logits, trie):
        beams = Beams.root(B, M)
        for level in range(L):
            beams = step(
                logits[level],
                beams,
                trie,
                level,
                num_beams=M,
                normalize="vocab",
                log_normalizer=None,
                live=None,
            )
        return jnp.sum(weight * alive(beams.score))

    got, expected = (
        jax.jit(jax.grad(functools.partial(total, step)))(logits, TRIE)
        for step in (beam_step, reference.beam_step)
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=BOUND)


def test_without_a_gradient_it_costs_nothing():
    logits, beams, _, _ = case()

    def direct(logits, beams, trie):
        return xla.beam_step(
            logits, beams, trie, 1, num_beams=4, normalize="vocab", log_normalizer=None, live=None
        )

    def public(logits, beams, trie):
        return beam_step(logits, beams, trie, 1, num_beams=4, implementation="xla")

    def operations(function):
        text = jax.jit(function).lower(logits, beams, TRIE).compile().as_text()
        # An argument that is not read costs nothing; without the wrapper it is dropped.
        return sum(" = " in line and " parameter(" not in line for line in text.splitlines())

    assert operations(direct) == operations(public)
