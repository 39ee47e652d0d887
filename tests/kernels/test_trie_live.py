"""Filters: a node is live exactly when an allowed item that is not excluded lies below it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.trie import build_trie
from tests.kernels.brute_force import Catalogue
from tests.kernels.layouts import LAYOUTS, layout

ROWS, CODES, ITEMS = 24, 4, 32
USERS, EXCLUDED = 2, 6


def small_trie(sids, items=None, kinds="mask_row_run"):
    return build_trie(sids, items, capacities=layout(LAYOUTS[kinds], ROWS, CODES, items=ITEMS))


def padded(*rows):
    """Returns the excluded items `[USERS, EXCLUDED]` of rows of any length."""
    return jnp.array([row + [-1] * (EXCLUDED - len(row)) for row in rows], jnp.int32)


@jax.jit
def children(trie, live, nodes_by_level):
    """Returns for each level the children of its nodes and which of them are live, by user."""
    found = []
    for level, nodes in enumerate(nodes_by_level):
        child = trie.children(nodes, level)
        found.append((child.node, child.valid, trie.live_children(live, nodes, level)))
    return found


def assert_exact(trie, live, sids, items, wanted_by_user):
    catalogue = Catalogue(sids, trie)
    nodes = np.full((len(sids[0]), len(wanted_by_user), ROWS + 1), -1, np.int32)
    for level, of_level in enumerate(nodes):
        of_level[:, : len(catalogue.prefix[level])] = list(catalogue.prefix[level])
    for level, of_level in enumerate(jax.device_get(children(trie, live, tuple(nodes)))):
        node, valid, alive = of_level
        for user, wanted in enumerate(wanted_by_user):
            got = node[user][valid[user] & alive[user]].tolist()
            rows = {row for row, item in enumerate(items) if item in wanted}
            assert set(got) == catalogue.live(level, rows)


# Each layout is several programs to compile; "mask_rows" has no step from table to table of its
# own. Without a mask of allowed items: the tests below.
KINDS = sorted(LAYOUTS.keys() - {"mask_rows"})

catalogues = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=24
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kinds=st.sampled_from(KINDS),
    sids=catalogues,
    seed=st.integers(0, 99),
    excluded=st.lists(
        st.lists(st.integers(-1, 33), min_size=EXCLUDED, max_size=EXCLUDED),
        min_size=USERS,
        max_size=USERS,
    ),
    allowed=st.just([True] * 32) | st.lists(st.booleans(), min_size=32, max_size=32),
)
def test_live_nodes_are_those_with_an_item_left(kinds, sids, seed, excluded, allowed):
    items = np.random.default_rng(seed).permutation(32)[: len(sids)]
    trie = small_trie(sids, items, kinds)
    mask = np.array(allowed)
    permitted = set(items.tolist()) & set(np.flatnonzero(allowed).tolist())
    live = trie.live_excluding(np.array(excluded, np.int32), mask)
    assert_exact(trie, live, sids, items, [permitted - set(row) for row in excluded])
    assert_exact(trie, trie.live(mask), sids, items, [permitted] * USERS)


def test_filters_may_differ_by_user():
    random = np.random.default_rng(4)
    sids = random.integers(0, 3, (24, 3)).tolist()
    trie = small_trie(sids)
    allowed = random.random((USERS, 24)) < 0.5
    permitted = [set(np.flatnonzero(row).tolist()) for row in allowed]
    assert_exact(trie, trie.live(jnp.array(allowed)), sids, range(24), permitted)
    excluded = random.integers(0, 24, (USERS, EXCLUDED)).astype(np.int32)
    live = trie.live_excluding(jnp.array(excluded), jnp.array(allowed))
    wanted = [p - set(row.tolist()) for p, row in zip(permitted, excluded, strict=True)]
    assert_exact(trie, live, sids, range(24), wanted)


def test_excluding_a_whole_branch_empties_it_up_to_the_root():
    sids = [(0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    trie = small_trie(sids)
    live = trie.live_excluding(padded([0, 1, 2, 0], [0, 1, 2, 3, 4, 99]))
    assert_exact(trie, live, sids, range(5), [{3, 4}, set()])


def test_no_exclusions_leave_everything_live():
    sids, both = [(0, 1, 0), (2, 0, 1)], [{0, 1}, {0, 1}]
    trie, nobody = small_trie(sids), jnp.zeros((USERS, 0), jnp.int32)
    assert_exact(trie, trie.live_excluding(nobody), sids, [0, 1], both)
    assert_exact(trie, trie.live_excluding(padded([], [])), sids, [0, 1], both)
    only = jnp.zeros(32, bool).at[1].set(True)
    assert_exact(trie, trie.live_excluding(nobody, only), sids, [0, 1], [{1}, {1}])


@pytest.mark.parametrize("width", [2, 32, 100])
def test_items_past_the_end_of_allowed_are_not_allowed(width):
    sids = [(0, 1, 0), (2, 0, 0), (2, 1, 0)]
    trie = small_trie(sids, [0, 9, 31])
    allowed = jnp.ones(width, bool)
    inside = {item for item in (0, 9, 31) if item < width}
    assert_exact(trie, trie.live(allowed), sids, [0, 9, 31], [inside, inside])
    live = trie.live_excluding(padded([0], [31]), allowed)
    assert_exact(trie, live, sids, [0, 9, 31], [inside - {0}, inside - {31}])


@pytest.mark.parametrize(
    ("excluded", "allowed", "message"),
    [
        (jnp.zeros(3, jnp.int32), None, "excluded: shape"),
        (jnp.zeros((2, 3)), None, "excluded: .*float32"),
        (jnp.zeros((2, 3), jnp.int32), jnp.zeros(3), "allowed: .*float32"),
        (jnp.zeros((2, 3), jnp.int32), jnp.zeros((3, 3), bool), "allowed: 3 users"),
        (jnp.zeros((2, 3), jnp.int32), jnp.zeros((1, 2, 3), bool), "allowed: shape"),
    ],
)
def test_wrong_filters_are_errors(excluded, allowed, message):
    with pytest.raises(ValueError, match=message):
        build_trie([(0, 1)]).live_excluding(excluded, allowed)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint32, np.int16])
def test_ids_that_no_item_can_have_change_nothing(dtype):
    sids = [(0, 1, 0), (2, 0, 0), (2, 1, 0), (3, 0, 0)]
    trie, everybody = small_trie(sids), [set(range(4))] * USERS
    largest = min(np.iinfo(dtype).max, 2**64 - 1)
    strange = [[32, 1000, largest, largest], [32, 32, 32, largest]]
    if largest > 2**32:
        strange = [[2**32 + 3, 2**32, 2**33 + 1, largest], [2**31, 2**32 - 1, 32, 2**40 + 2]]
    excluded = np.array(strange, dtype)
    assert_exact(trie, trie.live_excluding(excluded), sids, range(4), everybody)
    assert trie.leaf_of(excluded).tolist() == [[-1] * 4] * USERS
