"""The baseline of shared users, beside plain loops; intervals of users with several targets."""

import numpy as np
import pytest

from minirec.evaluation.intervals import bootstrap_intervals, difference_intervals
from minirec.recommend import BASELINES, CoOccurrence, Popularity, baselines_for
from minirec.recommend.baselines import co_occurrence


@pytest.fixture(scope="module")
def lists():
    rng = np.random.default_rng(0)
    held = [rng.permutation(30)[: rng.integers(2, 12)] for _ in range(25)]
    item = np.concatenate(held)
    return held, item, np.concatenate([[0], np.cumsum([len(one) for one in held])])


def fitted(lists):
    _, item, offsets = lists
    return CoOccurrence(item, offsets, 32, Popularity(item, 32))


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_it_is_what_plain_loops_count(lists, exclude_seen):
    held, _, _ = lists
    baseline = fitted(lists)
    sets = [set(one.tolist()) for one in held]
    users = [sum(number in one for one in sets) for number in range(32)]
    histories = [held[0], held[1][:3], np.array([31]), np.zeros(0, int)]
    found = baseline.recommend(histories, 10, exclude_seen=exclude_seen)
    for history, row in zip(histories, found, strict=True):
        scores = {}
        for b in range(32):
            near = 0.0
            for a in set(history.tolist()) - {b}:
                both = sum(a in one and b in one for one in sets)
                near += both / np.sqrt(users[a] * users[b]) if both else 0.0
            scores[b] = round(near, 12)
        seen = set(history.tolist()) if exclude_seen else set()
        order = sorted(
            set(range(32)) - seen, key=lambda b: (-scores[b], baseline.popularity.place[b])
        )
        assert row.tolist() == order[:10]


def test_long_lists_count_with_as_many_drawn_items(lists, monkeypatch):
    monkeypatch.setattr(co_occurrence, "MOST_ITEMS", 4)
    held, _, _ = lists
    counts = np.diff(fitted(lists).lists.indptr)
    assert counts.tolist() == [min(4, len(one)) for one in held]
    np.testing.assert_array_equal(fitted(lists).lists.indices, fitted(lists).lists.indices)


def test_it_stands_beside_models_of_data_without_an_order():
    of_lists = set(baselines_for(has_order=False, repeats=True))
    assert of_lists == set(BASELINES)
    assert of_lists - set(baselines_for(has_order=True, repeats=True)) == {"co_occurrence"}


def test_users_are_drawn_with_all_their_targets():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(50), 20)
    ranks = np.where(np.repeat(rng.random(50) < 0.5, 20), 0, -1)
    low, high = bootstrap_intervals(ranks, (10,), users=users)["hr@10"]
    alone = bootstrap_intervals(ranks, (10,))["hr@10"]
    # All of a user's targets stand and fall together: as wide as of 50, not of 1,000.
    plain = np.sqrt(0.25 / 50) * 3.92
    assert high - low == pytest.approx(plain, rel=0.15)
    assert alone[1] - alone[0] < 0.5 * (high - low)
    zero = difference_intervals(ranks, ranks, (10,), users=users)["hr@10"]
    assert zero == [0.0, 0.0]
    other = np.where(np.arange(1000) % 20 == 0, -1, ranks)
    low, high = difference_intervals(ranks, other, (10,), users=users)["hr@10"]
    assert 0 < low < high < 0.05
