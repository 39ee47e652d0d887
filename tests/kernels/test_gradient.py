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

NAN = np.float32(np.nan)
B, M, V, L, NUM_BEAMS = 2, 5, 16, 3, 4
MODES = ("vocab", "children", "given")
TRIE = build_trie(np.random.default_rng(0).integers(0, V, (200, L)))
# A few additions of numbers below 8, and a sum of V terms.
BOUND = 8 * V * EPS


def case(level=1, seed=1):
    """Returns logits, beams, a normaliser, and a weight of each new beam's score."""
    random = np.random.default_rng(seed)
    beams = Beams.root(B, M)
    for above in range(level):
        logits = jnp.asarray(random.normal(size=(B, M, V)), jnp.float32)
        beams = beam_step(logits, beams, TRIE, above, num_beams=M, implementation="xla").beams
    # The last beam is dead.
    node = beams.node.at[:, -1].set(DEAD_NODE)
    score = jnp.asarray(random.normal(size=(B, M)), jnp.float32).at[:, -1].set(-INF)
    logits = jnp.asarray(2 * random.normal(size=(B, M, V)), jnp.float32)
    normalizer = jnp.asarray(random.normal(size=(B, M)), jnp.float32)
    weight = jnp.asarray(random.normal(size=(B, NUM_BEAMS)), jnp.float32)
    return logits, Beams(node=node, score=score), normalizer, weight


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


def gradients(step, mode, level, weight, *arrays):
    function = functools.partial(loss, step, mode, level, weight)
    return jax.jit(jax.grad(function, argnums=(0, 1, 2)))(*arrays)


def close(got, expected, bound=BOUND):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=bound), got, expected)


@functools.cache
def reference_gradients(mode, level):
    """Returns the case of a level and autodiff's answer, which is the same for all."""
    logits, beams, normalizer, weight = case(level)
    arrays = (logits, beams.score, normalizer, beams.node, TRIE)
    expected = gradients(reference.beam_step, mode, level, weight, *arrays)
    return weight, arrays, expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", range(L))
def test_it_is_what_autodiff_of_the_reference_gives(implementation, mode, level):
    weight, arrays, expected = reference_gradients(mode, level)
    public = functools.partial(beam_step, implementation=implementation)
    got = gradients(public, mode, level, weight, *arrays)
    close(got, expected)
    assert np.abs(expected[0]).max() > 0.1


@pytest.mark.parametrize("level", range(L))
def test_beam_select_hands_it_to_the_candidates(implementation, level):
    _, beams, _, weight = case(level)
    shape = (B, M, TRIE.max_children(level))
    log_probs = jnp.asarray(np.random.default_rng(2).normal(size=shape), jnp.float32)

    def total(step, log_probs, score):
        beams_here = Beams(node=beams.node, score=score)
        new = step(log_probs, beams_here, TRIE, level, num_beams=NUM_BEAMS, live=None)
        return jnp.sum(weight * alive(new.score))

    def both(step):
        return jax.jit(jax.grad(functools.partial(total, step), argnums=(0, 1)))(
            log_probs, beams.score
        )

    got = both(functools.partial(beam_select, implementation=implementation))
    close(got, both(reference.beam_select), bound=BOUND)
    assert np.any(got[0])


@pytest.mark.parametrize("mode", MODES)
def test_finite_differences_agree(mode):
    logits, beams, normalizer, weight = case()

    def total(logits, score, normalizer):
        return loss(beam_step, mode, 1, weight, logits, score, normalizer, node, TRIE)

    node = beams.node[:, :-1]  # The last beam's score is -inf, and has no neighbours.
    sound = (logits[:, :-1], beams.score[:, :-1], normalizer[:, :-1])
    check_grads(total, sound, order=1, modes=["rev"], eps=2e-3, atol=1e-2, rtol=2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_broken_rows_and_dead_beams_have_the_gradient_zero(implementation, mode):
    logits, beams, normalizer, weight = case()
    # Row 0 holds NaN, row 1 +inf, row 2 nothing but -inf; in row 3 a child is impossible.
    logits = logits.at[0, 0, 3].set(NAN).at[0, 1, 5].set(INF).at[0, 2].set(-INF)
    token = TRIE.children(beams.node[1, 3], 1).token[0]
    logits = logits.at[1, 3, token].set(-INF)
    normalizer = normalizer.at[1, 0].set(NAN)
    score = beams.score.at[1, 1].set(NAN)
    public = functools.partial(beam_step, implementation=implementation)
    got = gradients(public, mode, 1, weight, logits, score, normalizer, beams.node, TRIE)
    assert all(np.isfinite(array).all() for array in got)
    assert not np.any(got[0][0, :3])
    assert not np.any(got[1][0, :3])
    assert not np.any(got[0][:, -1])
    assert not np.any(got[0][1, 1])
    assert np.any(got[0][0])
    # The reference's autodiff multiplies zero by NaN in such rows; so they are made sound, dead.
    node = beams.node.at[0, :3].set(DEAD_NODE).at[1, 1].set(DEAD_NODE)
    if mode == "given":
        node = node.at[1, 0].set(DEAD_NODE)
    sound = jnp.where(jnp.isfinite(logits), logits, -1e9).at[0, :3].set(0.0)
    expected = gradients(
        reference.beam_step,
        mode,
        1,
        weight,
        sound,
        jnp.nan_to_num(score),
        jnp.nan_to_num(normalizer),
        node,
        TRIE,
    )
    close(got, expected)


def test_what_is_asked_of_a_dead_beam_changes_nothing():
    logits, beams, _, _ = case()

    def total(logits, score, factor):
        new = beam_step(logits, Beams(beams.node, score), TRIE, 1, num_beams=M * V)
        return jnp.sum(jnp.where(new.node == DEAD_NODE, factor, 1.0) * jnp.exp(new.score))

    got = jax.grad(total, argnums=(0, 1))(logits, beams.score, NAN)
    close(got, jax.grad(total, argnums=(0, 1))(logits, beams.score, 1.0), bound=0)
    assert np.any(got[0])


def test_an_only_child_hands_on_its_parents_gradient(implementation):
    # Its log-probability among the children is 0, and so is its score: no constant for all that.
    trie = build_trie([(3, 1)])

    def score(start):
        beams = Beams(node=Beams.root(1).node, score=start)
        logits = jnp.zeros((1, 1, 4))
        step = beam_step(
            logits, beams, trie, 0, num_beams=1, normalize="children", implementation=implementation
        )
        return step.score[0, 0]

    start = jnp.zeros((1, 1))
    assert score(start) == 0.0
    assert jax.grad(score)(start).tolist() == [[1.0]]


@pytest.mark.parametrize("mode", ["vocab", "children"])
def test_a_filter_leaves_the_normalisers_gradient_whole(implementation, mode):
    logits, beams, normalizer, weight = case()
    live = TRIE.live_excluding(jnp.arange(100, dtype=jnp.int32).reshape(B, 50))
    public = functools.partial(beam_step, implementation=implementation)
    arrays = (logits, beams.score, normalizer, beams.node, TRIE, live)
    close(
        gradients(public, mode, 1, weight, *arrays),
        gradients(reference.beam_step, mode, 1, weight, *arrays),
    )


def test_bfloat16_logits_get_bfloat16_gradients(implementation):
    logits, beams, normalizer, weight = case()
    low = logits.astype(jnp.bfloat16)
    public = functools.partial(beam_step, implementation=implementation)
    rest = (beams.score, normalizer, beams.node, TRIE)
    got = gradients(public, "vocab", 1, weight, low, *rest)
    high = gradients(public, "vocab", 1, weight, low.astype(jnp.float32), *rest)
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
