"""Rows that a fast implementation gets wrong first: long ties, large logits, broken candidates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.beam_step import Beams, beam_select, beam_step
from kernels.trie import DEAD_NODE, build_trie
from tests.kernels.brute_force import INF, Catalogue, assert_step, exact, score_bound
from tests.kernels.layouts import layout

pytestmark = pytest.mark.usefixtures("interpreted_alone")

NAN = np.float32(np.nan)

# Two first codes with 400 children each, several lines; so few beams that long rows are searched in
# stages.
V, NUM_BEAMS = 400, 3
WIDE = [(first, second) for first in range(2) for second in range(V)]


@pytest.fixture(scope="module", params=["mask", "rows"])
def wide(request):
    sizes = layout([("rows", 0, 1), (request.param, 1, 1)], len(WIDE), V)
    trie = build_trie(WIDE, capacities=sizes)
    return Catalogue(WIDE, trie), trie


def wide_beams(catalogue, batch, scores=(0.0, 0.0)):
    nodes = np.array([catalogue.node[1][first,] for first in range(2)], np.int32)
    return Beams(
        np.tile(nodes, (batch, 1)),
        np.tile(np.array(scores, np.float32), (batch, 1)),
    )


def check_wide(wide, implementation, logits, scores=(0.0, 0.0)):
    """Asserts a step and a selection of given log-probabilities, with `==`; returns the step."""
    catalogue, trie = wide
    beams = wide_beams(catalogue, len(logits), scores)
    zeros = np.zeros(logits.shape[:2], np.float32)
    fixed = {"num_beams": NUM_BEAMS, "implementation": implementation}
    expected = exact(catalogue, logits, beams, 1, zeros, num_beams=NUM_BEAMS)
    step = jax.device_get(beam_step(logits, beams, trie, 1, log_normalizer=zeros, **fixed))
    assert_step(step, expected)
    log_probs = np.zeros((*logits.shape[:2], trie.max_children(1)), np.float32)
    log_probs[..., :V] = logits
    assert_step(beam_select(log_probs, beams, trie, 1, **fixed), expected)
    return step


def test_long_rows_of_two_values_tie_by_parent_then_token(wide, implementation):
    random = np.random.default_rng(0)
    # From next to no ones to next to no zeros, so that either value makes up the last beams.
    share = np.array([0.0, 0.0005, 0.001, 0.01, 0.5, 1.0])[:, None, None]
    logits = (random.random((len(share), 2, V)) < share).astype(np.float32)
    check_wide(wide, implementation, logits)
    check_wide(wide, implementation, logits, scores=(0.0, 1.0))


def test_a_better_candidate_behind_does_not_bring_its_neighbours_to_the_front(wide, implementation):
    logits = np.zeros((6, 2, V), np.float32)  # As many users as above, for the same programs.
    logits[0, 1, 390], logits[1, 0, 37] = 2.0, 2.0
    logits[0, 1, 391] = logits[1, 0, 38] = 1.0  # Beside the best one,
    logits[0, 0, [5, 6]] = logits[1, 0, [0, 1]] = 1.0  # and before it, equally good.
    step = check_wide(wide, implementation, logits)
    assert step.token.tolist() == [[390, 5, 6], [37, 0, 1], *[[0, 1, 2]] * 4]


SIDS = [(0, 0), (0, 1), (1, 0), (1, 4), (2, 2), (3, 1), (3, 3)]
TRIE = build_trie(SIDS)
CATALOGUE = Catalogue(SIDS, TRIE)
FIRST = np.array([CATALOGUE.node[1][first,] for first in range(4)], np.int32)


# A logit is float32 before a normaliser sees it, so that two cases meet both dtypes and both.
@pytest.mark.parametrize(("normalize", "dtype"), [("vocab", "float32"), ("children", "bfloat16")])
def test_logits_in_the_hundreds_are_normalised_within_the_bound(implementation, dtype, normalize):
    random = np.random.default_rng(11)
    logits = 100 * random.normal(size=(4, 4, 5)) + np.array([0, 500, -500, 0])[:, None]
    logits = logits.astype(jnp.dtype(dtype))
    beams = Beams(
        np.tile(FIRST, (4, 1)),
        np.tile(np.array([-1.0, -2.0, -3.0, -4.0], np.float32), (4, 1)),
    )
    fixed = {"num_beams": 9, "normalize": normalize, "implementation": implementation}
    step = beam_step(logits, beams, TRIE, 1, **fixed)
    assert (np.asarray(step.node[:, : len(SIDS)]) != DEAD_NODE).all()
    expected = exact(CATALOGUE, logits, beams, 1, normalize, num_beams=9)
    assert_step(step, expected, bound=score_bound(np.asarray(logits, np.float32), beams))


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_broken_candidate_kills_its_beam_and_touches_no_other(implementation, bad):
    trie = TRIE
    beams = Beams(FIRST[None], np.array([[-1.0, -2.0, -3.0, -4.0]], np.float32))
    log_probs = np.log(np.random.default_rng(5).random((1, 4, trie.max_children(1)), np.float32))
    # What is no child is not read.
    log_probs[~np.asarray(trie.children(FIRST[None], 1).valid)] = bad
    fixed = {"num_beams": 6, "implementation": implementation}
    whole = beam_select(log_probs, beams, trie, 1, **fixed)
    assert set(whole.parent[0].tolist()) == {0, 1, 2, 3}
    without = Beams(FIRST[None], np.array([[-1.0, -INF, -3.0, -4.0]], np.float32))
    expected = beam_select(log_probs, without, trie, 1, **fixed)
    log_probs[0, 1, 0] = bad  # One child of beam 1; the other is sound.
    step = beam_select(log_probs, beams, trie, 1, **fixed)
    for field in ("token", "parent", "node", "score"):
        assert np.array_equal(getattr(step, field), getattr(expected, field))
    assert np.isfinite(step.score[0, :5]).all()


# A list of children where large nodes take several lines and small ones share a line.
SIZES = [300, 30, 50, 200, 9]
MIXED = [(first, second) for first, size in enumerate(SIZES) for second in range(size)]


def test_a_small_node_among_large_ones_keeps_its_columns(implementation):
    sizes = layout([("rows", 0, 1), ("rows", 1, 1)], len(MIXED), 300)
    trie = build_trie(MIXED, capacities=sizes)
    catalogue = Catalogue(MIXED, trie)
    nodes = np.array([[catalogue.node[1][first,] for first in (2, 0, 4, 1, 3)]], np.int32)
    zeros = np.zeros((1, 5), np.float32)
    beams = Beams(nodes, zeros)
    random = np.random.default_rng(12)
    logits = random.integers(-9, 9, (1, 5, 300)).astype(np.float32)
    excluded = random.permutation(len(MIXED))[:200]
    live = trie.live_excluding(excluded[None].astype(np.int32))
    left = [catalogue.live(1, set(range(len(MIXED))) - set(excluded.tolist()))]
    expected = exact(catalogue, logits, beams, 1, zeros, num_beams=60, live=left)
    fixed = {"num_beams": 60, "live": live, "implementation": implementation}
    assert_step(beam_step(logits, beams, trie, 1, log_normalizer=zeros, **fixed), expected)
    log_probs = np.zeros((1, 5, trie.max_children(1)), np.float32)
    log_probs[..., :300] = logits
    assert_step(beam_select(log_probs, beams, trie, 1, **fixed), expected)
