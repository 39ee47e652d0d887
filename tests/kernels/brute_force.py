"""The beam step by brute force over a catalogue's SIDs, without a trie: the judge of its tests."""

import jax
import jax.numpy as jnp
import numpy as np

from kernels.trie import DEAD_NODE, build_trie
from tests.kernels.layouts import nodes_of

INF = np.float32(np.inf)
EPS = np.finfo(np.float32).eps


class Catalogue:
    """The sorted distinct prefixes of each depth: what a trie says, without a trie.

    Only the nodes' numbers are taken from a trie, which is free to choose them.
    """

    def __init__(self, sids, trie=None):
        sids = np.asarray(sids)
        self.sids = [tuple(sid) for sid in sids.tolist()]
        self.prefixes = [
            sorted({sid[:depth] for sid in self.sids}) for depth in range(sids.shape[1] + 1)
        ]
        self.node = [{(): 0}]
        by_depth = nodes_of(build_trie(sids) if trie is None else trie, *self.prefixes[1:])
        for depth, found in enumerate(by_depth, start=1):
            assert len(set(found.tolist())) == len(found)
            assert DEAD_NODE not in found
            self.node.append(dict(zip(self.prefixes[depth], found.tolist(), strict=True)))
        self.prefix = [{node: p for p, node in of_depth.items()} for of_depth in self.node]

    def children(self, node, level):
        """Returns the (token, node) that follow a node of depth `level`, sorted by token."""
        prefix = self.prefix[level].get(int(node))
        below = self.node[level + 1]
        return [(p[-1], below[p]) for p in self.prefixes[level + 1] if p[:-1] == prefix]

    def live(self, level, wanted):
        """Returns the nodes of depth `level + 1` above a wanted item."""
        alive = {sid[: level + 1] for item, sid in enumerate(self.sids) if item in wanted}
        return {node for p, node in self.node[level + 1].items() if p in alive}


def brute_force(children, logits, scores, num_beams, *, log_normalizer, live=None):
    """Returns one user's (token, parent, node, score), by a sort of all candidates.

    Args:
        children: for each beam the (token, node) pairs that may follow.
        logits: float32 `[M, V]`.
        scores: float32 `[M]`.
        num_beams: beams to return.
        log_normalizer: float32 `[M]`, or "vocab" or "children".
        live: nodes that are live; None for all.
    """
    candidates = []
    for beam, (row, parent_score) in enumerate(zip(logits, scores, strict=True)):
        if np.isnan(row).any() or (row == INF).any() or not np.isfinite(parent_score):
            continue
        normalizer = log_normalizer
        if isinstance(normalizer, str):
            counted = row if normalizer == "vocab" else row[[t for t, _ in children[beam]]]
            with np.errstate(divide="ignore"):
                normalizer = np.logaddexp.reduce(counted.astype(np.float64), initial=-np.inf)
        else:
            normalizer = normalizer[beam]
        if not np.isfinite(normalizer):
            continue
        for token, node in children[beam]:
            score = np.float32(parent_score + (row[token] - np.float32(normalizer)))
            if np.isfinite(score) and (live is None or node in live):
                candidates.append((-score, beam, token, node))
    best = sorted(candidates)[:num_beams]
    dead = [(INF, 0, 0, DEAD_NODE)] * (num_beams - len(best))
    score, parent, token, node = zip(*(best + dead), strict=True)
    return token, parent, node, -np.array(score, np.float32)


def assert_step(step, expected, bound=0.0):
    """Asserts integers with `==` and scores to `bound`, for each user."""
    step = jax.device_get(step)  # Or each look at a JAX array is a program to compile.
    for user, (token, parent, node, score) in enumerate(expected):
        assert step.token[user].tolist() == list(token)
        assert step.parent[user].tolist() == list(parent)
        assert step.node[user].tolist() == list(node)
        got = np.asarray(step.score[user])
        dead = np.array(node) == DEAD_NODE
        assert np.all(got[dead] == -INF)
        if bound:
            assert np.all(np.abs(got[~dead] - score[~dead]) <= bound)
        else:
            assert got[~dead].tolist() == score[~dead].tolist()
    dtypes = (step.token.dtype, step.parent.dtype, step.node.dtype, step.score.dtype)
    assert dtypes == (jnp.int32, jnp.int32, jnp.int32, jnp.float32)


def exact(catalogue, logits, beams, level, log_normalizer, *, num_beams, live=None):
    """Returns brute force's answer for a batch, with exact scores."""
    return [
        brute_force(
            [catalogue.children(node, level) for node in np.asarray(beams.node[user])],
            np.asarray(logits[user], np.float32),
            np.asarray(beams.score[user]),
            num_beams,
            log_normalizer=log_normalizer
            if isinstance(log_normalizer, str)
            else np.asarray(log_normalizer[user]),
            live=None if live is None else live[user],
        )
        for user in range(len(logits))
    ]


def score_bound(logits, beams):
    """Returns the error that float32 allows a score: a sum of V terms, its log, two additions."""
    scores = np.asarray(beams.score)
    largest = 4 * np.abs(logits).max() + np.abs(scores[np.isfinite(scores)]).max()
    return float(EPS * (logits.shape[-1] + largest))
