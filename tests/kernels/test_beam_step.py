"""One suite that every implementation of the beam step runs; brute force over the SIDs judges.

Integers are compared with `==`. Scores too, where they are given exactly (`log_normalizer`, small
integers); elsewhere within a bound that follows from float32 and the length of the sum.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.beam_step import IMPLEMENTATIONS, Beams, beam_select, beam_step, record_implementations
from kernels.beam_step.shapes import SHAPES, random_inputs, random_sids
from kernels.trie import DEAD_NODE, build_trie
from tests.kernels.brute_force import (
    INF,
    Catalogue,
    assert_step,
    brute_force,
    exact,
    score_bound,
)
from tests.kernels.layouts import LAYOUTS, layout, nodes_of
from tests.kernels.narrow import in_32_bits

pytestmark = pytest.mark.usefixtures("interpreted_alone")

NAN = np.float32(np.nan)

# One size for all small cases, so that they share compiled programs.
B, M, V, L, NUM_BEAMS, EXCLUDED, ITEMS = 2, 4, 5, 3, 6, 4, 16
CAPACITIES = layout(LAYOUTS["mask_row_run"], ITEMS, V)


@functools.cache
def compiled(implementation, level, num_beams, normalize="vocab"):
    """Returns the jitted step, as a search calls it, and asserts which implementation it is."""
    fixed = {"num_beams": num_beams, "normalize": normalize, "implementation": implementation}

    @jax.jit
    def step(logits, beams, trie, **arrays):
        logits, beams, arrays = in_32_bits((logits, beams, arrays))
        with record_implementations() as ran:
            result = beam_step(logits, beams, trie, level, **fixed, **arrays)
        assert ran == [implementation]
        return result

    return step


@functools.cache
def compiled_both(implementation, level):
    """Returns the jitted step and selection of the same candidates.

    One program, because what both begin with is then compiled once.
    """

    @jax.jit
    def both(logits, rows, beams, sound_beams, trie, log_normalizer, live):
        logits, rows, log_normalizer = in_32_bits((logits, rows, log_normalizer))
        beams, sound_beams = in_32_bits((beams, sound_beams))
        # The candidates, as log-probabilities of the children; what is no child is not read.
        child = trie.children(beams.node, level)
        log_probs = jnp.take_along_axis(rows, child.token, axis=-1)
        log_probs = jnp.where(child.valid, log_probs, jnp.nan)
        fixed = {"num_beams": NUM_BEAMS, "live": live, "implementation": implementation}
        with record_implementations() as ran:
            step = beam_step(logits, beams, trie, level, log_normalizer=log_normalizer, **fixed)
            selected = beam_select(log_probs, sound_beams, trie, level, **fixed)
        assert ran == [implementation] * 2
        return step, selected

    return both


# Jitted, as it is in a search; all implementations share it.
@jax.jit
def live_excluding(trie, excluded, allowed):
    return trie.live_excluding(excluded, allowed)


# Few and small values: ties everywhere, and sums that float32 holds exactly.
numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -3.0, 0.5])
broken = st.sampled_from([NAN, INF, -INF])
rarely_broken = st.one_of(*[numbers] * 12, broken)


def arrays(elements, *shape):
    size = int(np.prod(shape))
    return st.lists(elements, min_size=size, max_size=size).map(
        lambda values: np.array(values, np.float32).reshape(shape)
    )


@st.composite
def small_steps(draw, levels):
    """Draws a trie and its catalogue, a level, beams, logits, a normaliser and a filter."""
    code = st.integers(0, V - 1)
    sids = draw(st.lists(st.tuples(code, code, code), min_size=1, max_size=ITEMS))
    kinds, level = draw(st.sampled_from(levels))
    trie = build_trie(sids, capacities=layout(LAYOUTS[kinds], ITEMS, V))
    catalogue = Catalogue(sids, trie)
    node = st.sampled_from([DEAD_NODE, *catalogue.prefix[level]])
    nodes = draw(st.lists(node, min_size=B * M, max_size=B * M))
    beams = Beams(
        node=np.array(nodes, np.int32).reshape(B, M),
        score=draw(arrays(rarely_broken, B, M)),
    )
    logits = draw(arrays(draw(st.sampled_from([numbers, rarely_broken, st.just(1.0)])), B, M, V))
    log_normalizer = draw(arrays(rarely_broken, B, M))
    item = st.integers(-1, ITEMS)
    excluded = draw(st.lists(item, min_size=B * EXCLUDED, max_size=B * EXCLUDED))
    allowed = draw(st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS))
    return (trie, catalogue), level, beams, logits, log_normalizer, (excluded, allowed)


# Every kind of table at the root, below it and at the leaves, with every kind of table below it,
# and every place in a run. The levels of `LAYOUTS` that are left out have the table of one that is
# here.
LEVELS = [
    *(("rows", level) for level in range(L)),
    *(("masks", level) for level in range(L)),
    *(("lists", level) for level in range(L)),
    *(("mask_row_run", level) for level in range(L - 1)),
    ("mask_rows", 1),
    ("mixed", 0),
]
# Each is a program to compile, which takes long for what is interpreted: it gets a layout that has
# both kinds of table, several levels in one and a step from table to table.
LEVELS_OF = {
    "triton_gpu": [(kinds, level) for kinds in ("lists", "mask_row_run") for level in range(L)],
    "pallas_tpu": [("mask_row_run", level) for level in range(L)],
}


@settings(max_examples=60, deadline=None, derandomize=True)
@pytest.mark.parametrize("name", sorted(IMPLEMENTATIONS))
@given(data=st.data(), filtered=st.booleans())
def test_any_small_step_equals_brute_force(name, data, filtered):
    case = data.draw(small_steps(LEVELS_OF.get(name, LEVELS)))
    (trie, catalogue), level, beams, logits, log_normalizer, (excluded, allowed) = case
    excluded = np.array(excluded, np.int32).reshape(B, EXCLUDED)
    allowed = np.array(allowed) if filtered else np.ones(ITEMS, bool)
    excluded = excluded if filtered else np.full_like(excluded, -1)
    live = live_excluding(trie, excluded, allowed)
    wanted = [set(np.flatnonzero(allowed).tolist()) - set(row.tolist()) for row in excluded]
    expected = exact(
        catalogue,
        logits,
        beams,
        level,
        log_normalizer,
        live=[catalogue.live(level, items) for items in wanted],
        num_beams=NUM_BEAMS,
    )
    with np.errstate(invalid="ignore"):
        rows = logits - log_normalizer[..., None]
    sound = ~(np.isnan(logits) | (logits == INF)).any(-1) & np.isfinite(log_normalizer)
    sound_beams = Beams(node=beams.node, score=np.where(sound, beams.score, -INF))
    both = compiled_both(name, level)
    step, selected = both(logits, rows, beams, sound_beams, trie, log_normalizer, live)
    assert_step(step, expected)
    assert_step(selected, expected)


SIDS = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 4), (1, 4, 4), (1, 4, 4), (4, 4, 4)]
TRIE = build_trie(SIDS, capacities=CAPACITIES)
CATALOGUE = Catalogue(SIDS, TRIE)
FIRST = [CATALOGUE.node[1][prefix] for prefix in [(0,), (1,), (4,)]]


def small_step(implementation, logits, beams, level=1, normalize="vocab", **arrays):
    """Runs a step on `SIDS`; logits and beams are broadcast to `[B, M, …]`."""
    logits = np.broadcast_to(np.asarray(logits, np.float32), (B, M, V))
    step = compiled(implementation, level, NUM_BEAMS, normalize)
    return jax.device_get(step(logits, beams, TRIE, **arrays))


def some_beams(nodes=(0, 1, 2, DEAD_NODE), scores=(-1.0, -2.0, -3.0, -INF)):
    """Returns beams on the `nodes`-th first codes of `SIDS`; what is none stays as it is."""
    nodes = [FIRST[node] if 0 <= node < len(FIRST) else node for node in nodes]
    return Beams(
        node=np.tile(np.array(nodes, np.int32), (B, 1)),
        score=np.tile(np.array(scores, np.float32), (B, 1)),
    )


ZEROS = np.zeros((B, M), np.float32)


def test_all_equal_logits_go_to_the_lower_parent_then_the_lower_token(implementation):
    beams = some_beams(nodes=(1, 0, 1, 2), scores=(0.0, 0.0, 0.0, 0.0))
    step = small_step(implementation, 7.0, beams, log_normalizer=ZEROS)
    assert step.parent[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert step.token[0].tolist() == [0, 4, 0, 1, 0, 4]


def test_zero_and_minus_zero_tie(implementation):
    logits = np.where(np.arange(V) == 0, np.float32(-0.0), np.float32(0.0))
    beams = some_beams(scores=(-0.0, -0.0, 0.0, 0.0))
    step = small_step(implementation, logits, beams, log_normalizer=ZEROS)
    assert step.parent[0].tolist() == [0, 0, 1, 1, 2, 0]
    assert step.token[0].tolist() == [0, 1, 0, 4, 4, 0]


def test_fewer_candidates_than_beams_leave_dead_beams(implementation):
    beams = some_beams(nodes=(2, DEAD_NODE, 10**6, 1), scores=(-1.0, 0.0, 0.0, -2.0))
    step = small_step(implementation, 0.0, beams, log_normalizer=ZEROS)
    assert step.token[0].tolist() == [4, 0, 4, 0, 0, 0]
    assert step.parent[0].tolist() == [0, 3, 3, 0, 0, 0]
    second = [CATALOGUE.node[2][prefix] for prefix in [(4, 4), (1, 0), (1, 4)]]
    assert step.node[0].tolist() == [*second, DEAD_NODE, DEAD_NODE, DEAD_NODE]
    assert step.score[0].tolist() == [-1.0, -2.0, -2.0, -INF, -INF, -INF]


def test_nothing_grows_from_dead_beams(implementation):
    dead = some_beams(nodes=(DEAD_NODE,) * M, scores=(0.0, -INF, NAN, INF))
    step = small_step(implementation, 0.0, dead)
    assert np.all(np.asarray(step.node) == DEAD_NODE)
    assert np.all(np.asarray(step.score) == -INF)
    again = small_step(
        implementation, 0.0, Beams(step.node[:, :M], step.score[:, :M]), normalize="children"
    )
    assert np.all(np.asarray(again.node) == DEAD_NODE)


@pytest.mark.parametrize("normalize", ["vocab", "children", "given"])
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("token", [0, 3])  # 3 is nobody's child: it still spoils its row.
def test_a_broken_row_kills_its_beam_and_touches_no_other(implementation, normalize, bad, token):
    random = np.random.default_rng(0)
    logits = random.normal(size=(B, M, V)).astype(np.float32)
    given = {"log_normalizer": ZEROS} if normalize == "given" else {}
    mode = "vocab" if normalize == "given" else normalize
    without = some_beams(scores=(-1.0, -INF, -3.0, -INF))
    expected = small_step(implementation, logits, without, normalize=mode, **given)
    logits[:, 1, token] = bad
    step = small_step(implementation, logits, some_beams(), normalize=mode, **given)
    assert jax.tree.all(jax.tree.map(np.array_equal, step, expected))
    assert np.isfinite(step.score[0, :3]).all()


# Each normaliser and each dtype; a logit is float32 before a normaliser sees it.
@pytest.mark.parametrize(
    ("normalize", "dtype"),
    [("vocab", jnp.float32), ("children", jnp.bfloat16), ("given", jnp.bfloat16)],
)
def test_a_broken_logit_is_seen_anywhere_in_a_long_row(implementation, dtype, normalize):
    rows, width = 256, 1031
    place = np.random.default_rng(3).permutation(width)[:rows]
    logits = np.zeros((1, rows, width), np.float32)
    logits[0, np.arange(rows), place] = np.where(np.arange(rows) % 2, NAN, INF)
    logits[0, 77] = 0.0  # The only sound row.
    beams = Beams(np.full((1, rows), FIRST[0], np.int32), np.zeros((1, rows), np.float32))
    given = {"log_normalizer": np.zeros((1, rows), np.float32)} if normalize == "given" else {}
    mode = "vocab" if normalize == "given" else normalize
    step = compiled(implementation, 1, NUM_BEAMS, mode)
    step = step(logits.astype(dtype), beams, TRIE, **given)
    assert step.parent[0].tolist() == [77, 77, 0, 0, 0, 0]
    assert step.token[0].tolist() == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_broken_normaliser_or_parent_kills_its_beam_only(implementation, bad):
    logits = np.random.default_rng(1).normal(size=(B, M, V)).astype(np.float32)
    without = some_beams(scores=(-1.0, -INF, -3.0, -INF))
    expected = small_step(implementation, logits, without, log_normalizer=ZEROS)
    broken = np.where(np.arange(M) == 1, bad, ZEROS)
    step = small_step(implementation, logits, some_beams(), log_normalizer=broken)
    assert jax.tree.all(jax.tree.map(np.array_equal, step, expected))
    parent = some_beams(scores=(-1.0, bad, -3.0, -INF))
    step = small_step(implementation, logits, parent, log_normalizer=ZEROS)
    assert jax.tree.all(jax.tree.map(np.array_equal, step, expected))


@pytest.mark.parametrize("normalize", ["vocab", "children"])
def test_minus_infinity_is_a_dead_candidate_not_a_dead_beam(implementation, normalize):
    logits = np.zeros((B, M, V), np.float32)
    logits[:, 0, 0] = logits[:, 1] = -INF  # One child of beam 0; all of beam 1.
    step = small_step(implementation, logits, some_beams(), normalize=normalize)
    assert step.parent[0].tolist() == [0, 2, 0, 0, 0, 0]
    assert step.token[0].tolist() == [1, 4, 0, 0, 0, 0]


# All levels, both normalisers, with and without a filter: not each with each, as a normaliser is
# made of logits and children wherever they come from. Over the vocabulary at all levels, with a
# filter: `test_beam_step_search.py`.
@pytest.mark.parametrize(
    ("level", "normalize", "filtered"),
    [(0, "children", True), (1, "vocab", False), (1, "children", False), (2, "children", True)],
)
def test_normalised_scores_are_within_the_bound_of_float32(
    implementation, level, normalize, filtered
):
    random = np.random.default_rng(7)
    logits = (8 * random.normal(size=(B, M, V))).astype(np.float32)
    prefixes = [CATALOGUE.prefixes[level][i % 3 if level else 0] for i in (3, 1, 2)]
    nodes = [*(CATALOGUE.node[level][prefix] for prefix in prefixes), DEAD_NODE]
    beams = Beams(np.tile(np.array(nodes, np.int32), (B, 1)), some_beams().score)
    catalogue_bound = score_bound(logits, beams)

    def check(excluded):
        wanted = [set(range(len(SIDS))) - set(items) for items in excluded]
        alive = [CATALOGUE.live(level, items) for items in wanted] if filtered else None
        live = TRIE.live_excluding(np.array(excluded, np.int32)) if filtered else None
        step = small_step(implementation, logits, beams, level, normalize, live=live)
        expected = exact(
            CATALOGUE, logits, beams, level, normalize, num_beams=NUM_BEAMS, live=alive
        )
        assert_step(step, expected, bound=catalogue_bound)
        return step

    everything = check(np.full((B, 5), -1))
    if not filtered:
        return
    # A filter takes candidates away and keeps the normaliser, to the bit.
    excluded = [[5, 6, 7, 0, 1], [0, 1, 2, 3, -1]]
    step = check(excluded)
    for user, items in enumerate(excluded):
        alive = CATALOGUE.live(level, set(range(len(SIDS))) - set(items))
        kept = np.isin(everything.node[user], list(alive))
        assert 0 < kept.sum() < (np.asarray(everything.node[user]) != DEAD_NODE).sum()
        assert step.node[user, : kept.sum()].tolist() == everything.node[user][kept].tolist()
        assert step.score[user, : kept.sum()].tolist() == everything.score[user][kept].tolist()


def test_bfloat16_logits_are_taken_to_float32_first(implementation):
    random = np.random.default_rng(8)
    rows, width = 256, 1031  # A program of the test of long rows.
    logits = random.normal(size=(1, rows, width)).astype(jnp.bfloat16)
    normalizer = random.normal(size=(1, rows)).astype(np.float32)
    node = random.choice(np.array([*FIRST, DEAD_NODE], np.int32), (1, rows))
    beams = Beams(node, random.normal(size=(1, rows)).astype(np.float32))
    step = compiled(implementation, 1, NUM_BEAMS)
    got = step(logits, beams, TRIE, log_normalizer=normalizer)
    expected = exact(CATALOGUE, logits, beams, 1, normalizer, num_beams=NUM_BEAMS)
    assert_step(got, expected)


def test_a_token_past_the_row_is_no_candidate(implementation):
    # The tables of `CAPACITIES` have room for codes that the logits have no column for.
    trie = build_trie([(0, 2, 0), (0, 7, 0), (0, 5, 0)], capacities=CAPACITIES)
    (node, *_), (child, *_) = nodes_of(trie, [[0]], [[0, 2]])
    beams = Beams(np.full((B, M), DEAD_NODE, np.int32), np.zeros((B, M), np.float32))
    beams.node[:, 0] = node
    step = compiled(implementation, 1, NUM_BEAMS)(np.zeros((B, M, V), np.float32), beams, trie)
    step = jax.device_get(step)
    assert step.token.tolist() == [[2, 0, 0, 0, 0, 0]] * B
    assert step.node.tolist() == [[child, *[DEAD_NODE] * 5]] * B


@functools.cache
def real_case(shape):
    """Returns a trie, inputs, exact normalisers, and what brute force makes of them."""
    sids = random_sids(shape)
    trie = build_trie(sids)
    inputs = random_inputs(shape, trie)
    # The prefixes below each beam, found in the sorted prefixes.
    below = np.unique(sids[:, : shape.level + 1], axis=0)
    above, first, count = np.unique(
        below[:, : shape.level], axis=0, return_index=True, return_counts=True
    )
    nodes, of_above = nodes_of(trie, below, above)
    place = {int(node): i for i, node in enumerate(of_above)}
    children = []
    for user in np.asarray(inputs.beams.node).tolist():
        runs = [slice(first[place[n]], first[place[n]] + count[place[n]]) for n in user]
        children.append(
            [list(zip(below[run, -1].tolist(), nodes[run].tolist(), strict=True)) for run in runs]
        )
    logits = np.asarray(inputs.logits, np.float32)
    normalizer = np.log(np.exp(logits.astype(np.float64)).sum(-1)).astype(np.float32)
    expected = [
        brute_force(
            children[user],
            logits[user],
            np.asarray(inputs.beams.score[user]),
            shape.num_beams,
            log_normalizer=normalizer[user],
        )
        for user in range(shape.batch)
    ]
    return trie, inputs, normalizer, expected


def smaller(shape):
    """Returns a shape as crowded as the real one, with fewer SIDs, users and rows, for time."""
    shape = dataclasses.replace(shape, batch=min(shape.batch, 3))
    if shape.num_sids == 1_000_000:
        return dataclasses.replace(shape, num_sids=100_000, first_codes=10)
    if shape.vocab > 100_000:
        return dataclasses.replace(shape, batch=1, beams=10)
    return shape


# Level 2 of the longer SIDs is the first of a run of rows, as it is of the shorter ones, and in the
# run that level 7 ends.
REAL = {name: smaller(shape) for name, shape in SHAPES.items() if name != "youtube_narrow"}


@pytest.mark.parametrize("shape", REAL.values(), ids=lambda shape: shape.name)
def test_a_real_shape_equals_brute_force(implementation, shape):
    trie, inputs, normalizer, expected = real_case(shape)
    step = compiled(implementation, shape.level, shape.num_beams)
    got = step(inputs.logits, inputs.beams, trie, log_normalizer=normalizer)
    assert_step(got, expected)
