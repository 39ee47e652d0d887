"""Candidate isolation, one cached reading, and what a history is worth."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.models import TrunkConfig
from minirec.models.hash_embedding import hash_buckets, ids_of
from minirec.models.ranker import CandidateRanker, Events, RankerConfig, age_buckets

N, P, C, ACTIONS = 40, 12, 9, 3
TRUNK = TrunkConfig(num_layers=2, width=32, num_heads=2, num_kv_heads=1, head_dim=16, mlp_width=48)
CLOSE = {"rtol": 2e-5, "atol": 2e-5}  # Sums of some 30 float32 terms in another order, two layers.


@pytest.fixture(scope="module")
def ranker():
    config = RankerConfig(TRUNK, ACTIONS, num_identities=2, num_buckets=64, hash_width=8)
    return CandidateRanker(config, rngs=nnx.Rngs(3))


@pytest.fixture(scope="module")
def identities():
    own = hash_buckets(ids_of([f"i{item}" for item in range(N)]), 64, 2)
    brand = hash_buckets(ids_of([f"b{item % 5}" for item in range(N)]), 64, 2, salt="brand")
    return jnp.asarray(np.stack([own, brand], axis=1))


def histories(rng, lengths):
    """Padded histories of some lengths, with repeats; what pads is nonsense."""
    shape = (len(lengths), P)
    segment = (np.arange(P) < np.array(lengths)[:, None]).astype(np.int32)
    item = np.where(segment > 0, rng.integers(0, N // 3, shape), -1)
    action = np.where(segment > 0, rng.integers(0, ACTIONS, shape), -1)
    gap = np.where(segment > 0, rng.integers(0, 10**6, shape), 0)
    gap[:, 0] = 0
    return Events(*(jnp.asarray(array, jnp.int32) for array in (item, action, gap, segment)))


@pytest.fixture(scope="module")
def asked(ranker, identities):
    rng = np.random.default_rng(0)
    lengths = jnp.asarray([5, 0, 12, 1], jnp.int32)
    events = histories(rng, lengths.tolist())
    candidates = jnp.asarray(rng.integers(0, N // 2, (4, C)), jnp.int32)
    wait = jnp.asarray([30, 0, 86_400, 5], jnp.int32)

    @nnx.jit
    def score(ranker, events, candidates, wait):
        return ranker.score(ranker.read(events, identities, lengths), identities, candidates, wait)

    return score, events, candidates, wait


def test_a_candidates_logits_depend_on_no_other_candidate(ranker, asked):
    score, events, candidates, wait = asked
    whole = np.asarray(score(ranker, events, candidates, wait))
    assert whole.shape == (4, C, ACTIONS + 1)
    order = np.random.default_rng(1).permutation(C)
    permuted = score(ranker, events, candidates[:, order], wait)
    np.testing.assert_allclose(permuted, whole[:, order], **CLOSE)
    others = candidates.at[:, 1:].set(N - 1)
    np.testing.assert_allclose(score(ranker, events, others, wait)[:, 0], whole[:, 0], **CLOSE)
    for size in (1, 2, 4):
        pieces = [
            score(ranker, events, candidates[:, start : start + size], wait)
            for start in range(0, C, size)
        ]
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, **CLOSE)
    again = jnp.concatenate([candidates, candidates], axis=1)
    both = np.asarray(score(ranker, events, again, wait))
    np.testing.assert_allclose(both[:, C:], both[:, :C], **CLOSE)  # No slot is better than another.


def test_histories_actions_times_and_waits_change_logits(ranker, asked):
    score, events, candidates, wait = asked
    whole = np.asarray(score(ranker, events, candidates, wait))
    rows = [0, 2]  # Those with a history of some length.
    for name, other in (
        ("item", (events.item + 1) % N),
        ("action", (events.action + 1) % ACTIONS),
        ("gap", events.gap * 100),
    ):
        changed = dataclasses.replace(events, **{name: other})
        moved = np.abs(np.asarray(score(ranker, changed, candidates, wait)) - whole).max((1, 2))
        assert (moved[rows] > 1e-3).all(), name
        assert moved[1] == 0  # Nobody's history is not read.
    later = np.asarray(score(ranker, events, candidates, wait + 10**6))
    assert (np.abs(later - whole).max((1, 2)) > 1e-3).all()


def test_one_packed_pass_is_what_each_place_gives_by_itself(ranker, identities):
    rng = np.random.default_rng(2)
    lengths = [5, 4, 3]
    alone = histories(rng, lengths)

    def packed(array):
        parts = [np.asarray(array)[row, :length] for row, length in enumerate(lengths)]
        return jnp.asarray(np.concatenate(parts)[None])

    segment = jnp.asarray(np.repeat([1, 2, 3], lengths)[None], jnp.int32)
    events = Events(packed(alone.item), packed(alone.action), packed(alone.gap), segment)
    candidates = jnp.asarray(rng.integers(0, N // 2, (1, sum(lengths), C)), jnp.int32)
    together = np.asarray(nnx.jit(lambda r, e, c: r(e, identities, c))(ranker, events, candidates))
    begin = 0
    for row, length in enumerate(lengths):
        for place in range(length):
            some = jax.tree.map(lambda array, row=row: array[row : row + 1], alone)
            reading = ranker.read(some, identities, jnp.asarray([place], jnp.int32))
            asked_for = candidates[:, begin + place]
            logits = ranker.score(reading, identities, asked_for, some.gap[:, place])
            np.testing.assert_allclose(together[0, begin + place], logits[0], **CLOSE)
        begin += length


def test_what_a_candidate_says_of_its_history_is_what_a_loop_finds(ranker):
    rng = np.random.default_rng(4)
    events = histories(rng, [12, 7])
    candidates = jnp.asarray(np.tile(np.arange(N // 3 + 1), (2, P, 1)), jnp.int32)
    place_number = np.arange(P)
    before = jnp.asarray(
        (place_number < place_number[:, None]) & (np.asarray(events.segment) > 0)[:, None]
    )
    found = ranker._seen(events, candidates, before, events.gap)
    item, action, gap = (np.asarray(array) for array in (events.item, events.action, events.gap))
    for row, length in enumerate((12, 7)):
        for place in range(length):
            past = item[row, :place].tolist()
            newest = list(dict.fromkeys(reversed(past)))
            for number, candidate in enumerate(np.asarray(candidates)[row, place].tolist()):
                got = tuple(int(part[row, place, number]) for part in found)
                if candidate not in past:
                    assert got == (0, 0, 0, 0)
                    continue
                at = place - 1 - past[::-1].index(candidate)
                age = int(gap[row, at + 1 : place + 1].sum())
                assert got == (
                    min(1 + newest.index(candidate), 16),
                    min(past.count(candidate), 7),
                    action[row, at] + 1,
                    int(age_buckets(jnp.int32(age))),
                )


def test_times_fall_into_buckets_of_powers_of_two():
    seconds = np.array([-5, 0, 1, 2, 3, 4, 7, 8, 2**30 - 1, 2**30, 2**31 - 1])
    expected = [1, 1, 2, 3, 3, 4, 4, 5, 31, 32, 32]
    assert age_buckets(jnp.asarray(seconds, jnp.int32)).tolist() == expected


def test_ids_have_rows_of_their_own_and_padding_has_none():
    ids = ids_of(["a", None, "b", "a"])
    rows = hash_buckets(ids, 1000, 3)
    assert (rows[1] == 0).all()
    assert (rows[0] == rows[3]).all()
    assert (rows[[0, 2]] > 0).all()
    assert len(set(rows[0].tolist())) == 3  # Several hashes, several rows.
    many = hash_buckets(np.arange(1, 100_001, dtype=np.uint64), 1001, 1)[:, 0]
    counts = np.bincount(many, minlength=1001)
    assert counts[0] == 0
    # Hashed at random, a row's count is binomial: mean 100, and none of 1,000 is six deviations
    # away but with a chance of two in a million.
    assert abs(counts[1:] - 100).max() < 60
    assert (hash_buckets(ids, 1000, 1, salt="x") != hash_buckets(ids, 1000, 1))[0].all()
    with pytest.raises(ValueError, match="num_buckets"):
        hash_buckets(ids, 1, 1)
