"""Ranks, hit rate, NDCG and their intervals, against plain loops over users."""

import math

import numpy as np
import pytest

from minirec.evaluation import (
    bootstrap_intervals,
    count_invalid,
    difference_intervals,
    evaluate_lists,
    hit_rate,
    item_ranks,
    item_sids,
    metrics_at,
    ndcg,
    sid_ranks,
)


def naive_sid_rank(sids, target, keep_duplicates):
    place, met = 0, set()
    for sid in map(tuple, sids):
        if min(sid) < 0 or (sid in met and not keep_duplicates):
            continue
        if sid == tuple(target):
            return place
        met.add(sid)
        place += 1
    return -1


def test_item_rank_is_the_first_place_and_minus_one_where_absent():
    lists = np.array([[4, 2, 4], [1, -1, -1], [0, 3, 2]])
    assert item_ranks(lists, np.array([4, 2, 2])).tolist() == [0, -1, 2]


def test_an_empty_list_finds_nothing():
    assert item_ranks(np.zeros((2, 0), int), np.array([0, 1])).tolist() == [-1, -1]


def test_a_padded_place_is_never_the_target():
    with pytest.raises(ValueError, match="target: -1 in row 0"):
        item_ranks(np.array([[-1]]), np.array([-1]))


@pytest.mark.parametrize("keep_duplicates", [False, True])
def test_sid_ranks_equal_a_loop_over_lists_with_duplicates_and_dead_beams(keep_duplicates):
    generator = np.random.default_rng(0)
    sids = generator.integers(0, 3, (300, 12, 2))
    sids[generator.random((300, 12)) < 0.2] = -1
    target = generator.integers(0, 3, (300, 2))
    got = sid_ranks(sids, target, keep_duplicates=keep_duplicates)
    want = [naive_sid_rank(s, t, keep_duplicates) for s, t in zip(sids, target, strict=True)]
    assert got.tolist() == want
    assert -1 in want
    assert max(want) > 4


def test_sid_ranks_hold_for_more_levels_than_64_bits_can_number():
    generator = np.random.default_rng(1)
    catalogue = generator.integers(0, 65_536, (6, 8))
    lists = np.stack([generator.permutation(6) for _ in range(40)])
    target = generator.integers(0, 6, 40)
    assert sid_ranks(catalogue[lists], catalogue[target]).tolist() == (
        item_ranks(lists, target).tolist()
    )


def test_an_item_list_counts_a_shared_sid_once_at_its_first_place():
    item_codes = np.array([[0, 0], [0, 0], [1, 5]])
    lists = np.array([[0, 1, 2, -1]])
    sids = item_sids(lists, item_codes)
    assert sid_ranks(sids, item_codes[[1]]).tolist() == [0]
    assert sid_ranks(sids, item_codes[[2]]).tolist() == [1]
    assert sid_ranks(sids, item_codes[[2]], keep_duplicates=True).tolist() == [2]
    assert sids[0, 3].tolist() == [-1, -1]


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="target: 2 rows, but ranked_items has 3"):
        item_ranks(np.zeros((3, 4), int), np.zeros(2, int))
    with pytest.raises(ValueError, match="target_sid: 3 levels, but ranked_sids has 2"):
        sid_ranks(np.zeros((1, 4, 2), int), np.zeros((1, 3), int))
    with pytest.raises(ValueError, match="ranked_items: item 9"):
        item_sids(np.array([[9]]), np.zeros((4, 2), int))
    with pytest.raises(ValueError, match="integer array"):
        item_ranks(np.zeros((3, 4)), np.zeros(3, int))


def test_metrics_equal_a_loop_and_count_ranks_from_zero():
    generator = np.random.default_rng(2)
    ranks = generator.integers(-1, 60, 500)
    metrics = metrics_at(ranks)
    assert list(metrics)[:4] == ["hr@1", "ndcg@1", "hr@3", "ndcg@3"]
    for k in (1, 3, 5, 10, 20, 50):
        hits = [0 <= rank < k for rank in ranks]
        gains = [
            1 / math.log2(rank + 2) if hit else 0.0 for rank, hit in zip(ranks, hits, strict=True)
        ]
        assert metrics[f"hr@{k}"] == pytest.approx(sum(hits) / 500, abs=1e-12)
        assert metrics[f"ndcg@{k}"] == pytest.approx(sum(gains) / 500, abs=1e-12)


def test_rank_zero_gains_one_and_rank_one_gains_what_minionerec_gives():
    assert ndcg(np.array([0]), 10) == 1.0
    assert ndcg(np.array([1]), 10) == pytest.approx(1 / math.log2(3))
    assert hit_rate(np.array([9, 10, -1, 0]), 10) == 0.5


def test_metrics_of_nobody_are_an_error():
    with pytest.raises(ValueError, match="at least one user"):
        metrics_at(np.zeros(0, int))
    with pytest.raises(ValueError, match="-2 is not a rank"):
        metrics_at(np.array([-2]))
    with pytest.raises(ValueError, match="ks: 0; the length of a list must be at least 1"):
        metrics_at(np.array([1]), [0])


def test_intervals_equal_resampling_users_one_by_one():
    generator = np.random.default_rng(3)
    ranks = generator.integers(-1, 30, 400)
    drawn = ranks[generator.integers(0, 400, (4000, 400))]
    want = np.quantile(((drawn >= 0) & (drawn < 10)).mean(axis=1), [0.025, 0.975])
    got = bootstrap_intervals(ranks, (10,), seed=0, num_resamples=4000)
    # Two samples of 4000: the standard error of such a percentile is about 0.0009.
    assert got["hr@10"] == pytest.approx(want.tolist(), abs=0.005)


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(4)
    covered = 0
    for seed in range(200):
        ranks = np.where(generator.random(300) < 0.2, 0, -1)
        low, high = bootstrap_intervals(ranks, (10,), seed=seed, num_resamples=300)["hr@10"]
        covered += low <= 0.2 <= high
    assert 180 <= covered <= 200  # 190 expected, standard deviation 3


def test_intervals_repeat_with_the_seed_and_hold_the_estimate():
    ranks = np.random.default_rng(5).integers(-1, 80, 1000)
    first = bootstrap_intervals(ranks, seed=1)
    assert first == bootstrap_intervals(ranks, seed=1)
    assert first != bootstrap_intervals(ranks, seed=2)
    for name, value in metrics_at(ranks).items():
        low, high = first[name]
        assert low <= value <= high


def test_a_metric_without_spread_has_an_interval_without_width():
    assert bootstrap_intervals(np.zeros(50, int), (10,))["ndcg@10"] == [1.0, 1.0]


def test_paired_differences_of_equal_lists_are_zero_and_narrower_than_unpaired_ones():
    generator = np.random.default_rng(6)
    ranks = generator.integers(-1, 30, 2000)
    assert difference_intervals(ranks, ranks, (10,))["ndcg@10"] == [0.0, 0.0]
    other = np.where(generator.random(2000) < 0.02, 0, ranks)
    low, high = difference_intervals(other, ranks, (10,))["hr@10"]
    alone = bootstrap_intervals(ranks, (10,))["hr@10"]
    assert 0 < low < hit_rate(other, 10) - hit_rate(ranks, 10) < high
    assert high - low < (alone[1] - alone[0]) / 2
    with pytest.raises(ValueError, match="3 users, but ranks has 2000"):
        difference_intervals(ranks, ranks[:3])


def test_invalid_sids_are_counted_and_dead_beams_are_not():
    item_codes = np.array([[0, 1], [2, 2]])
    beams = np.array([[[0, 1], [2, 1], [-1, -1]], [[2, 2], [0, 0], [9, 9]]])
    assert count_invalid(beams, item_codes) == 3
    assert count_invalid(item_codes[None], item_codes) == 0
    assert count_invalid(np.full((1, 2, 2), -1), item_codes) == 0


def test_an_evaluation_gives_no_metric_beyond_its_lists_and_counts_what_it_shows():
    item_codes = np.array([[0], [1], [1], [2]])
    lists = np.array([[0, 1, 2], [3, 0, -1]])
    beams = np.array([[[0], [1], [2], [-1]], [[2], [0], [-1], [-1]]])
    result = evaluate_lists(lists, np.array([2, 1]), item_codes, ranked_sids=beams)
    assert list(result.metrics["item"]) == ["hr@1", "ndcg@1", "hr@3", "ndcg@3"]
    assert result.metrics["item"]["hr@3"] == 0.5
    assert result.ranks["sid"].tolist() == [1, -1]
    assert result.recommended.tolist() == [2, 1, 1, 1]
    assert (result.coverage, result.invalid, result.dead_beams) == (1.0, 0, 3)


def test_an_evaluation_names_a_target_outside_the_catalogue_and_lists_too_short():
    item_codes = np.zeros((3, 1), int)
    with pytest.raises(ValueError, match="target: item 7"):
        evaluate_lists(np.array([[0]]), np.array([7]), item_codes)
    with pytest.raises(ValueError, match="only 1 places"):
        evaluate_lists(np.array([[0]]), np.array([1]), item_codes, ks=(5, 10))
