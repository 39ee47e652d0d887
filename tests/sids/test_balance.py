import numpy as np
import pytest

from minirec.sids.balance import balanced_codes, capacity
from minirec.sids.rq_kmeans import rq_kmeans


@pytest.fixture(scope="module")
def lopsided():
    """Nine tenths of 3,000 vectors in one tight cloud, and a hundred times the same vector."""
    random = np.random.default_rng(0)
    cloud = random.normal(size=(2600, 8)) * 0.05
    rest = random.normal(size=(300, 8))
    return np.concatenate([cloud, rest, np.ones((100, 8))]).astype(np.float32)


# Of the variance: an even split of a lopsided cloud costs more than one with some slack.
@pytest.mark.parametrize(("balance", "most_error"), [(1.0, 0.7), (2.0, 0.5)])
def test_no_code_has_more_than_its_share_and_errors_stay_small(lopsided, balance, most_error):
    plain = rq_kmeans(lopsided, 2, 16, seed=0)
    result = rq_kmeans(lopsided, 2, 16, seed=0, balance=balance)
    limit = capacity(len(lopsided), 16, balance)
    assert limit == int(np.ceil(balance * len(lopsided) / 16))
    for level in range(2):
        counts = np.bincount(result.codes[:, level], minlength=16)
        np.testing.assert_array_equal(counts, result.counts[level])
        assert counts.max() <= limit
    assert max(count.max() for count in plain.counts) > limit
    error = np.square(lopsided - result.decode(result.codes)).sum(axis=1).mean()
    assert error == pytest.approx(result.reconstruction_error[-1], rel=1e-4)
    assert error < result.variance * most_error
    again = rq_kmeans(lopsided, 2, 16, seed=0, balance=balance)
    np.testing.assert_array_equal(again.codes, result.codes)


def test_those_leave_a_full_code_who_lose_least():
    points = np.array([[0.0], [0.1], [0.4], [1.0]], np.float32)
    codes, codebook = balanced_codes(points, np.array([[0.0], [2.0]]), np.ones(2, bool), 1.0)
    assert codes.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(codebook, [[0.05], [0.7]], atol=1e-6)


def test_dead_codes_help_out_where_the_living_are_too_few():
    points = np.zeros((8, 2), np.float32)
    alive = np.array([True, False, False, False])
    codes, _ = balanced_codes(points, np.zeros((4, 2)), alive, 1.0)
    assert np.bincount(codes, minlength=4).tolist() == [2, 2, 2, 2]


def test_a_balance_below_one_is_refused():
    with pytest.raises(ValueError, match=r"balance: 0.5; must be at least 1"):
        rq_kmeans(np.zeros((4, 2)), 1, 2, balance=0.5)


def test_many_vectors_settle_on_a_sample_and_lose_nothing_by_it(monkeypatch):
    random = np.random.default_rng(1)
    centers = random.normal(size=(16, 4))
    vectors = centers[random.integers(0, 16, 12_000)] + random.normal(size=(12_000, 4)) * 0.1
    sampled = rq_kmeans(vectors.astype(np.float32), 2, 16, seed=0)
    monkeypatch.setattr("minirec.sids.rq_kmeans._SETTLE_ROWS", 10**6)
    whole = rq_kmeans(vectors.astype(np.float32), 2, 16, seed=0)
    assert sampled.reconstruction_error[-1] < 1.02 * whole.reconstruction_error[-1]
    assert not np.array_equal(sampled.codes, whole.codes), "the sample was never taken"
