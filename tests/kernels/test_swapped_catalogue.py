"""A filter of another catalogue is refused, or leaves nothing: never an item that it forbids.

The catalogues have equal capacities, as they have where one is swapped without compiling anew.
"""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.beam_step import Beams, beam_select, beam_step
from kernels.head_beam_step import IMPLEMENTATIONS as HEAD_IMPLEMENTATIONS
from kernels.head_beam_step import head_beam_step
from kernels.trie import DEAD_NODE, build_trie
from tests.kernels.layouts import LAYOUTS, layout

B, M, V, ROWS = 2, 4, 8, 24
SIDS = np.array([(0, 1, 0), (0, 1, 0), (0, 2, 1), (1, 1, 0), (2, 0, 3), (2, 0, 4)])
OTHER_SIDS = np.array([(0, 1, 0), (0, 1, 1), (0, 2, 1), (1, 1, 0), (2, 0, 3), (2, 5, 4)])
OTHER_ITEMS = [0, 1, 3, 2, 4, 5]  # The same SIDs, and items 2 and 3 have each other's.
ALL = jnp.ones(len(SIDS), bool)
FILTERS = {
    "allowed": lambda trie: trie.live(ALL),
    "allowed by user": lambda trie: trie.live(jnp.tile(ALL, (B, 1))),
    "excluded": lambda trie: trie.live_excluding(np.array([[0], [3]])),
    "excluded, allowed": lambda trie: trie.live_excluding(np.array([[0], [3]]), ALL),
    "nothing excluded": lambda trie: trie.live_excluding(np.zeros((B, 0), np.int32)),
}


def trie_of(sids=SIDS, items=None, kinds="mixed"):
    return build_trie(sids, items, capacities=layout(LAYOUTS[kinds], ROWS, V))


@functools.partial(jax.jit, static_argnames=("what", "level", "normalize", "implementation"))
def step(what, values, beams, trie, live, level, normalize="vocab", implementation=None):
    arguments = {"num_beams": M, "live": live, "implementation": implementation}
    if what == "select":
        values = values[..., : trie.max_children(level)]
        return beam_select(values, beams, trie, level, **arguments)
    if what == "head":
        head = jnp.eye(V)
        return head_beam_step(values, head, beams, trie, level, normalize=normalize, **arguments)
    return beam_step(values, beams, trie, level, normalize=normalize, **arguments)


def logits(seed=0, width=V):
    return jax.random.normal(jax.random.key(seed), (B, M, width))


def beams_at(trie, level):
    """Returns the beams at the first nodes of a level."""
    prefixes = np.unique(SIDS[:, :level], axis=0)[:M]
    node = trie.node_of(jnp.asarray(np.resize(prefixes, (M, level)), jnp.int32))
    node = jnp.where(jnp.arange(M) < len(prefixes), node, DEAD_NODE)
    return Beams(jnp.tile(node, (B, 1)), jnp.zeros((B, M)))


def assert_dead(found, users=slice(None)):
    assert not found.token[users].any()
    assert not found.parent[users].any()
    assert (found.node[users] == DEAD_NODE).all()
    assert jnp.isneginf(found.score[users]).all()


@pytest.mark.parametrize("kinds", sorted(LAYOUTS))
def test_a_digest_tells_what_a_filter_can_tell_apart(kinds):
    trie = trie_of(kinds=kinds)
    order = [3, 1, 0, 5, 4, 2]  # Items 0 and 1, which share a SID, change places.
    again = trie_of(SIDS[order], order, kinds)
    assert trie.digest.tolist() == again.digest.tolist()
    assert trie.items(trie.leaf_of(np.array(0)))[0] != again.items(again.leaf_of(np.array(0)))[0]
    different = [
        trie_of(OTHER_SIDS, kinds=kinds),
        trie_of(items=OTHER_ITEMS, kinds=kinds),
        trie_of(items=[0, 1, 2, 3, 4, 6], kinds=kinds),
        trie_of(SIDS[:-1], kinds=kinds),
    ]
    assert {other.capacities for other in different} == {trie.capacities}
    assert len({tuple(other.digest.tolist()) for other in [trie, *different]}) == 5


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("sids", "items"), [(OTHER_SIDS, None), (SIDS, OTHER_ITEMS)])
def test_a_filter_of_another_catalogue_is_an_error_where_both_are_at_hand(name, sids, items):
    trie, other = trie_of(), trie_of(sids, items)
    live, beams = FILTERS[name](other), beams_at(trie, 0)
    both = f"{other.digest.tobytes().hex()[:12]}.* {trie.digest.tobytes().hex()[:12]}"
    for call in (
        lambda: beam_step(logits(), beams, trie, 0, num_beams=M, live=live),
        lambda: beam_select(
            logits(width=trie.max_children(0)), beams, trie, 0, num_beams=M, live=live
        ),
        lambda: head_beam_step(logits(), jnp.eye(V), beams, trie, 0, num_beams=M, live=live),
        lambda: trie.live_children(live, beams.node, 0),
        # Constants of a jitted function are at hand as well.
        lambda: jax.jit(lambda x: beam_step(x, beams, trie, 0, num_beams=M, live=live))(logits()),
    ):
        with pytest.raises(ValueError, match=f"live: made with the trie of another .*{both}"):
            call()


@pytest.mark.parametrize("name", FILTERS)
def test_under_jit_such_a_filter_leaves_nothing_live(name):
    trie, other = trie_of(), trie_of(OTHER_SIDS)

    @jax.jit
    def live_children(live, nodes):
        return [trie.live_children(live, node, level) for level, node in enumerate(nodes)]

    nodes = [beams_at(trie, level).node for level in range(3)]
    assert not any(alive.any() for alive in live_children(FILTERS[name](other), nodes))
    for level, alive in enumerate(live_children(FILTERS[name](trie), nodes)):
        assert (alive & trie.children(nodes[level], level).valid).any()


def assert_stopped(what, level, **arguments):
    trie, other, beams = trie_of(), trie_of(OTHER_SIDS), beams_at(trie_of(), level)
    run = functools.partial(step, what, logits(), beams, trie, level=level, **arguments)
    assert_dead(run(live=FILTERS["excluded"](other)))
    assert (run(live=FILTERS["excluded"](trie)).node[:, 0] != DEAD_NODE).all()


def test_under_jit_every_implementation_returns_dead_beams_alone(implementation):
    assert_stopped("step", 2, implementation=implementation)


def test_under_jit_a_selection_returns_dead_beams_alone():
    assert_stopped("select", 2)


@pytest.mark.parametrize("head_implementation", HEAD_IMPLEMENTATIONS)
def test_under_jit_every_fused_head_returns_dead_beams_alone(head_implementation):
    assert_stopped("head", 2, implementation=head_implementation)


def test_under_jit_no_gradient_comes_from_such_beams():
    trie, beams = trie_of(), beams_at(trie_of(), 1)

    def alive(values, live):
        found = step("step", values, beams, trie, live, 1)
        return jnp.where(found.node == DEAD_NODE, 0.0, found.score).sum()

    gradient = jax.jit(jax.grad(alive))
    assert not gradient(logits(), FILTERS["excluded"](trie_of(OTHER_SIDS))).any()
    assert gradient(logits(), FILTERS["excluded"](trie)).any()


def test_filters_of_two_catalogues_put_together_stop_the_old_ones_user_alone():
    trie, other = trie_of(), trie_of(OTHER_SIDS)
    first = jax.tree.map(lambda rows: rows[:1], FILTERS["excluded"](trie))
    second = jax.tree.map(lambda rows: rows[1:], FILTERS["excluded"](other))
    live = jax.tree.map(lambda *rows: jnp.concatenate(rows), first, second)
    found = step("step", logits(), beams_at(trie, 1), trie, live, 1)
    whole = step("step", logits(), beams_at(trie, 1), trie, FILTERS["excluded"](trie), 1)
    assert_dead(found, users=1)
    assert found.node[0].tolist() == whole.node[0].tolist() != [DEAD_NODE] * M
    with pytest.raises(ValueError, match="live: made with the trie of another"):
        beam_step(logits(), beams_at(trie, 1), trie, 1, num_beams=M, live=live)


def test_a_filter_serves_every_trie_of_the_same_items():
    trie, order = trie_of(), [3, 1, 0, 5, 4, 2]
    again = pickle.loads(pickle.dumps(trie_of(SIDS[order], order)))
    live = pickle.loads(pickle.dumps(FILTERS["excluded"](trie)))
    found = beam_step(logits(), beams_at(trie, 1), again, 1, num_beams=M, live=live)
    expected = step("step", logits(), beams_at(trie, 1), trie, live, 1)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))


def test_a_catalogue_and_its_filter_swap_without_a_new_trace():
    traces = []

    @jax.jit
    def run(values, beams, trie, live):
        traces.append(trie.capacities)
        return beam_step(values, beams, trie, 1, num_beams=M, live=live)

    for trie in (trie_of(), trie_of(OTHER_SIDS), trie_of(items=OTHER_ITEMS)):
        found = run(logits(), beams_at(trie, 1), trie, FILTERS["excluded"](trie))
        assert (found.node[:, 0] != DEAD_NODE).all()
    assert len(traces) == 1
