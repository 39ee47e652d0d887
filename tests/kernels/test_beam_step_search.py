"""Steps from the root to the leaves find what scoring every SID of the catalogue finds."""

import functools

import jax
import numpy as np
import pytest

from kernels.beam_step import Beams, beam_select, beam_step
from kernels.trie import DEAD_NODE, build_trie
from tests.bounds import assert_close, log_softmax_roundings
from tests.kernels.layouts import LAYOUTS, layout, nodes_of

pytestmark = pytest.mark.usefixtures("interpreted_alone")

B, L, V, ITEMS, BEAMS, EXCLUDED = 2, 3, 6, 24, 24, 20
CAPACITIES = layout(LAYOUTS["mask_row_run"], ITEMS, V, items_per_leaf=8)


# Jitted once for all cases, which differ in arrays and not in shapes.
@functools.partial(jax.jit, static_argnames="level")
def _children(trie, node, level):
    return trie.children(node, level)


@functools.partial(jax.jit, static_argnames=("level", "fixed"))
def _step(logits, beams, trie, live, level, fixed):
    return beam_step(logits, beams, trie, level, live=live, **dict(fixed))


@functools.partial(jax.jit, static_argnames=("level", "fixed"))
def _select(log_probs, beams, trie, live, level, fixed):
    return beam_select(log_probs, beams, trie, level, live=live, **dict(fixed))


@jax.jit
def _items(trie, leaf):
    return trie.items(leaf)


class Model:
    """A stand-in for a model: random logits for every user and prefix."""

    def __init__(self, seed):
        self.row = functools.cache(
            lambda user, prefix: (
                np.random.default_rng([seed, user, *prefix])
                .normal(scale=3.0, size=V)
                .astype(np.float32)
            )
        )

    def log_prob(self, user, sid, children=None):
        """Returns the SID's log-probability in float64; over `children(prefix)` where given."""
        total = 0.0
        for level, token in enumerate(sid):
            row = self.row(user, sid[:level]).astype(np.float64)
            counted = row if children is None else row[children(sid[:level])]
            total += row[token] - np.logaddexp.reduce(counted)
        return total


def all_live(trie):
    """Returns a filter that leaves everything, for the programs of the searches that filter."""
    return trie.live_excluding(np.full((B, EXCLUDED), -1, np.int32), np.ones(ITEMS, bool))


def search(model, trie, num_beams, *, children=None, live=None, **arguments):
    """Returns each user's (sid, leaf, score), best first, dead beams left out.

    Normalised over `children(prefix)` where that is given, by `beam_select`.
    """
    beams, prefixes = Beams.root(B), [[()] for _ in range(B)]
    # The best few are the head of the best `BEAMS`, and the others dead: the programs are the same.
    fixed = tuple({"num_beams": BEAMS, **arguments}.items())
    for level in range(L):
        logits = np.stack(
            [[model.row(u, p) for p in of_user] for u, of_user in enumerate(prefixes)]
        )
        if children is not None:
            child = _children(trie, beams.node, level)
            counted = np.full_like(logits, -np.inf)
            for u, of_user in enumerate(prefixes):
                for m, prefix in enumerate(of_user):
                    read = children(prefix)
                    counted[u, m, read] = logits[u, m, read]
            # A dead beam has no children to be normalised over.
            counted[~np.isfinite(counted).any(axis=-1)] = 0.0
            rows = logits - np.logaddexp.reduce(counted, axis=-1, keepdims=True)
            log_probs = np.take_along_axis(rows, np.clip(child.token, 0, V - 1), axis=-1)
            step = _select(log_probs, beams, trie, live, level, fixed)
        else:
            step = _step(logits, beams, trie, live, level, fixed)
        step = jax.tree.map(np.array, step)
        step.node[:, num_beams:], step.score[:, num_beams:] = DEAD_NODE, -np.inf
        parent, token = step.parent, step.token
        prefixes = [
            [(*prefixes[u][p], int(t)) for p, t in zip(parent[u], token[u], strict=True)]
            for u in range(B)
        ]
        beams = step.beams
    node, score = np.asarray(beams.node), np.asarray(beams.score)
    return [
        [
            (prefixes[u][i], int(node[u, i]), float(score[u, i]))
            for i in range(num_beams)
            if node[u, i] != DEAD_NODE
        ]
        for u in range(B)
    ]


def catalogue(seed):
    """Returns 24 SIDs, some of them twice."""
    random = np.random.default_rng(seed)
    return [tuple(sid) for sid in random.integers(0, [3, V, V], (ITEMS, L)).tolist()]


def assert_ranked(found, scores):
    """Asserts that `found` is the head of the SIDs of `scores`, sorted, with those scores."""
    ranked = sorted(scores, key=lambda sid: -scores[sid])
    assert [sid for sid, _, _ in found] == ranked[: len(found)]
    # A softmax, a difference and a sum a level, of logits of some 15 at most.
    roundings = L * (log_softmax_roundings(V) + 2)
    assert_close([s for *_, s in found], [scores[s] for s, *_ in found], roundings, scale=15)


# Over the vocabulary by `beam_step` with a filter that leaves everything, over the children by
# `beam_select` without.
@pytest.mark.parametrize("normalize", ["vocab", "children"])
def test_a_search_with_room_for_all_ranks_the_whole_catalogue(implementation, normalize):
    sids, model = catalogue(0), Model(1)
    trie = build_trie(sids, capacities=CAPACITIES)
    given = {"implementation": implementation}

    def children(prefix):
        return sorted({s[len(prefix)] for s in sids if s[: len(prefix)] == prefix})

    if normalize == "vocab":
        found = search(model, trie, BEAMS, live=all_live(trie), normalize="vocab", **given)
    else:
        found = search(model, trie, BEAMS, children=children, **given)
    leaves = sorted(set(sids))
    for user in range(B):
        scores = {
            sid: model.log_prob(user, sid, children if normalize == "children" else None)
            for sid in leaves
        }
        assert len(found[user]) == len(leaves)
        assert_ranked(found[user], scores)
        found_leaves = np.array([leaf for _, leaf, _ in found[user]], np.int32)
        (nodes,) = nodes_of(trie, [sid for sid, _, _ in found[user]])
        of_leaf = np.asarray(_items(trie, found_leaves))
        for (sid, leaf, _), node, row in zip(found[user], nodes, of_leaf, strict=True):
            assert node == leaf
            items = [item for item in row.tolist() if item >= 0]
            assert items == [item for item, other in enumerate(sids) if other == sid]


def test_a_filtered_search_ranks_exactly_the_items_that_are_left(implementation):
    sids, model = catalogue(2), Model(3)
    trie = build_trie(sids, capacities=CAPACITIES)
    random = np.random.default_rng(4)
    # User 0 may see few items, user 1 all but a few; few beams, so that none may be wasted.
    allowed = random.random(ITEMS) < 0.6
    excluded = np.full((B, EXCLUDED), -1, np.int32)
    excluded[0, :10] = random.permutation(ITEMS)[:10]
    excluded[1, ::5] = 7
    live = trie.live_excluding(excluded, allowed)
    given = {"normalize": "vocab", "implementation": implementation}
    found = search(model, trie, BEAMS, live=live, **given)
    for user in range(B):
        left = set(np.flatnonzero(allowed).tolist()) - set(excluded[user].tolist())
        scores = {sids[item]: model.log_prob(user, sids[item]) for item in left}
        assert 0 < len(scores) < len(set(sids))
        assert len(found[user]) == len(scores)
        assert_ranked(found[user], scores)


def test_no_beam_is_spent_on_an_emptied_branch(implementation):
    # 20 SIDs below code 0, all taken away, would fill 4 beams at every level.
    sids = [(0, i % 5, i // 5) for i in range(20)] + [(1, i, i) for i in range(4)]

    model = Model(5)
    model.row = lambda user, prefix: -3.0 * np.arange(V, dtype=np.float32)
    trie = build_trie(sids, capacities=CAPACITIES)
    excluded = np.tile(np.resize(np.arange(20, dtype=np.int32), EXCLUDED), (B, 1))
    live = trie.live_excluding(excluded, np.ones(ITEMS, bool))
    given = {"normalize": "vocab", "implementation": implementation}
    found = search(model, trie, 4, live=live, **given)
    assert [sid for sid, _, _ in found[0]] == [(1, i, i) for i in range(4)]
