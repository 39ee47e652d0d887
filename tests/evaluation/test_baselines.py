"""The two baselines against plain loops, and on the real files against DESIGN.md's figures."""

import ast
import collections
import csv
import fractions

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from configs import retail_rocket
from minirec.evaluation import item_ranks, item_sids, metrics_at, sid_ranks
from minirec.recommend import ItemTransition, Popularity
from minirec.recommend.baselines import Recency, RecencyTransition
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared

NUM_ITEMS = 9
sequences_strategy = st.lists(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), min_size=1, max_size=8
)


def concatenate(sequences):
    offsets = np.cumsum([0, *map(len, sequences)])
    return np.array([item for sequence in sequences for item in sequence], np.int32), offsets


def naive_lists(sequences, histories, k, exclude_seen, transitions=True):
    """DESIGN.md's sentences as loops over exact fractions."""
    count = collections.Counter(item for sequence in sequences for item in sequence)
    table = collections.defaultdict(lambda: collections.defaultdict(fractions.Fraction))
    for sequence in sequences if transitions else ():
        for place, item in enumerate(sequence):
            for distance in (1, 2, 3):
                if place + distance < len(sequence):
                    table[item][sequence[place + distance]] += fractions.Fraction(1, distance)
    lists = []
    for history in histories:
        score = collections.Counter()
        for age, item in enumerate(reversed(history[-10:])):
            total = sum(table[item].values())
            for other, weight in table[item].items():
                score[other] += fractions.Fraction(1, 2**age) * weight / total
        ranked = sorted(range(NUM_ITEMS), key=lambda item: (-score[item], -count[item], item))
        if exclude_seen:
            ranked = [item for item in ranked if item not in history]
        lists.append((ranked + [-1] * k)[:k])
    return lists


@hypothesis.given(
    sequences_strategy, sequences_strategy, st.integers(1, NUM_ITEMS + 3), st.booleans()
)
@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
def test_item_transition_equals_exact_arithmetic(sequences, histories, k, exclude_seen):
    baseline = ItemTransition(*concatenate(sequences), NUM_ITEMS)
    got = baseline.recommend(histories, k, exclude_seen=exclude_seen)
    assert got.tolist() == naive_lists(sequences, histories, k, exclude_seen)


@hypothesis.given(
    sequences_strategy, sequences_strategy, st.integers(1, NUM_ITEMS + 3), st.booleans()
)
@hypothesis.settings(max_examples=80, deadline=None, derandomize=True)
def test_popularity_equals_a_sorted_count(sequences, histories, k, exclude_seen):
    baseline = Popularity(concatenate(sequences)[0], NUM_ITEMS)
    got = baseline.recommend(histories, k, exclude_seen=exclude_seen)
    assert got.tolist() == naive_lists(sequences, histories, k, exclude_seen, transitions=False)


@hypothesis.given(
    sequences_strategy, sequences_strategy, st.integers(1, NUM_ITEMS + 3), st.booleans()
)
@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
def test_transition_probabilities_are_the_mean_of_the_rows_by_weight(
    sequences, histories, k, exclude_seen
):
    baseline = ItemTransition(*concatenate(sequences), NUM_ITEMS)
    ranked = baseline.rank(histories, k, exclude_seen=exclude_seen)
    assert (ranked.item == baseline.recommend(histories, k, exclude_seen=exclude_seen)).all()
    rows = baseline.transitions.toarray()
    for history, items, got in zip(histories, ranked.item, ranked.probability, strict=True):
        leading_on = [
            (0.5**age, rows[item])
            for age, item in enumerate(reversed(history[-10:]))
            if rows[item].any()
        ]
        mixture = np.zeros(NUM_ITEMS)
        if leading_on:
            weights, distributions = zip(*leading_on, strict=True)
            mixture = np.average(distributions, axis=0, weights=weights)
        want = [mixture[item] if item >= 0 else 0 for item in items]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)
        assert (np.diff(got) <= 0).all()


def test_probabilities_of_the_whole_catalogue_sum_to_one():
    generator = np.random.default_rng(3)
    sequences = [generator.integers(0, 40, generator.integers(2, 20)).tolist() for _ in range(60)]
    baseline = ItemTransition(*concatenate(sequences), 41)
    histories = [generator.integers(0, 40, generator.integers(1, 15)) for _ in range(600)]
    # Item 40 leads nowhere, so that the newest item but one gets what it leaves.
    histories += [np.array([3, 40]), np.array([3]), np.array([40]), np.array([], int)]
    ranked = baseline.rank(histories, 41, exclude_seen=False)
    np.testing.assert_allclose(ranked.probability[:-2].sum(axis=1), 1, rtol=0, atol=1e-10)
    assert (ranked.probability[-2:] == 0).all()
    np.testing.assert_array_equal(ranked.probability[-4], ranked.probability[-3])
    popular = baseline.popularity.rank(histories, 41, exclude_seen=False)
    np.testing.assert_allclose(popular.probability.sum(axis=1), 1, rtol=0, atol=1e-12)


def test_what_is_excluded_takes_its_probability_with_it():
    baseline = ItemTransition(np.array([0, 1, 0, 2, 0, 1]), np.array([0, 2, 4, 6]), 4)
    free = baseline.rank([[1, 0], [1]], 4, exclude_seen=False)
    assert free.item.tolist() == [[1, 2, 0, 3], [0, 1, 2, 3]]
    np.testing.assert_allclose(free.probability, [[2 / 3, 1 / 3, 0, 0], [0, 0, 0, 0]], atol=1e-12)
    unseen = baseline.rank([[1, 0], [1]], 4, exclude_seen=True)
    assert unseen.item.tolist() == [[2, 3, -1, -1], [0, 2, 3, -1]]
    np.testing.assert_allclose(unseen.probability[0], [1 / 3, 0, 0, 0], atol=1e-12)
    popular = baseline.popularity.rank([[0], [0, 1, 2, 3]], 2, exclude_seen=True)
    assert popular.item.tolist() == [[1, 2], [-1, -1]]
    np.testing.assert_allclose(popular.probability, [[1 / 3, 1 / 6], [0, 0]], atol=1e-12)


def test_followers_are_the_lists_without_what_fills_them_up_and_without_what_is_not_allowed():
    generator = np.random.default_rng(5)
    sequences = [generator.integers(0, 30, generator.integers(2, 6)).tolist() for _ in range(25)]
    baseline = ItemTransition(*concatenate(sequences), 30)
    histories = [generator.integers(0, 30, generator.integers(0, 8)) for _ in range(40)]
    whole = baseline.rank(histories, 30, exclude_seen=True)
    allowed = generator.random(32) < 0.5  # Two more than the baseline knows.
    for mask in (None, allowed):
        got = baseline.rank_followers(histories, 4, exclude_seen=True, allowed=mask)
        for row, items in enumerate(whole.item):
            kept = [
                (item, probability)
                for item, probability in zip(items, whole.probability[row], strict=True)
                if probability > 0 and (mask is None or mask[item])
            ][:4]
            kept += [(-1, 0.0)] * (4 - len(kept))
            assert list(zip(got.item[row], got.probability[row], strict=True)) == kept


def test_padded_histories_give_what_ragged_ones_give_over_several_blocks():
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, 50, generator.integers(2, 20)).tolist() for _ in range(80)]
    baseline = ItemTransition(*concatenate(sequences), 50)
    histories = [generator.integers(0, 50, generator.integers(0, 15)) for _ in range(1100)]
    left, right = np.full((1100, 15), -1), np.full((1100, 15), -1)
    for row, history in enumerate(histories):
        left[row, 15 - len(history) :] = history
        right[row, : len(history)] = history
    want = baseline.recommend(histories, 7, exclude_seen=True)
    assert (baseline.recommend(left, 7, exclude_seen=True) == want).all()
    assert (baseline.recommend(right, 7, exclude_seen=True) == want).all()
    assert want.dtype == np.int32


def test_no_transition_crosses_from_one_sequence_to_the_next():
    baseline = ItemTransition(np.array([0, 1, 2, 3]), np.array([0, 2, 4]), 4)
    assert sorted(zip(*map(list, baseline.transitions.nonzero()), strict=True)) == [(0, 1), (2, 3)]


def test_nobody_and_an_empty_log_are_served():
    baseline = ItemTransition(np.zeros(0, np.int32), np.array([0]), 3)
    assert baseline.recommend([], 2, exclude_seen=False).shape == (0, 2)
    assert baseline.recommend([[2]], 3, exclude_seen=True).tolist() == [[0, 1, -1]]


def test_impossible_input_is_named():
    with pytest.raises(ValueError, match="train_items: item 5"):
        Popularity(np.array([5]), 3)
    with pytest.raises(ValueError, match="offsets: must rise from 0 to the number of items, 2"):
        ItemTransition(np.array([0, 1]), np.array([0, 1]), 3)
    baseline = Popularity(np.array([0]), 3)
    with pytest.raises(ValueError, match="histories: item 8 of user 1"):
        baseline.recommend([[0], [8]], 2, exclude_seen=False)
    with pytest.raises(ValueError, match="k: 0"):
        baseline.recommend([[0]], 0, exclude_seen=False)


def naive_recency(sequences, history, k, exclude_seen, share):
    """Scores of `0.6**r` and a share of the count, as loops over exact fractions."""
    count = collections.Counter(item for sequence in sequences for item in sequence)
    score = collections.Counter()
    for place, item in enumerate(dict.fromkeys(reversed(history))):
        score[item] = fractions.Fraction(6, 10) ** place
    table = collections.defaultdict(lambda: collections.defaultdict(fractions.Fraction))
    for sequence in sequences:
        for place, item in enumerate(sequence):
            for distance in (1, 2, 3):
                if place + distance < len(sequence):
                    table[item][sequence[place + distance]] += fractions.Fraction(1, distance)
    for age, item in enumerate(reversed(history[-10:])):
        for other, weight in table[item].items():
            score[other] += (
                share * fractions.Fraction(1, 2**age) * weight / sum(table[item].values())
            )
    ranked = sorted(range(NUM_ITEMS), key=lambda item: (-score[item], -count[item], item))
    if exclude_seen:
        ranked = [item for item in ranked if item not in history]
    return (ranked + [-1] * k)[:k]


@hypothesis.given(
    sequences_strategy, sequences_strategy, st.integers(1, NUM_ITEMS + 3), st.booleans()
)
@hypothesis.settings(max_examples=80, deadline=None, derandomize=True)
def test_recency_with_and_without_the_count_equals_exact_arithmetic(
    sequences, histories, k, exclude_seen
):
    transition = ItemTransition(*concatenate(sequences), NUM_ITEMS)
    for baseline, share in (
        (Recency(transition.popularity), 0),
        (RecencyTransition(transition), fractions.Fraction(2, 10)),
    ):
        got = baseline.recommend(histories, k, exclude_seen=exclude_seen)
        assert got.tolist() == [
            naive_recency(sequences, history, k, exclude_seen, share) for history in histories
        ]


def figures(ranks):
    metrics = metrics_at(ranks, (10,))
    return f"{metrics['hr@10']:.4f}/{metrics['ndcg@10']:.4f}"


def test_beauty_reaches_the_figures_of_the_design(real_data):
    path = real_data / "amazon_beauty" / "Beauty.txt"
    sequences = [[int(item) - 1 for item in line.split()[1:]] for line in path.open()]
    item, offsets = concatenate([sequence[:-2] for sequence in sequences])
    target = np.array([sequence[-1] for sequence in sequences])
    histories = [np.array(sequence[:-1]) for sequence in sequences]
    transition = ItemTransition(item, offsets, 12_101)
    lists = transition.recommend(histories, 10, exclude_seen=True)
    assert figures(item_ranks(lists, target)) == "0.0793/0.0502"
    lists = transition.popularity.recommend(histories, 10, exclude_seen=True)
    assert figures(item_ranks(lists, target)) == "0.0115/0.0055"


def test_retail_rocket_reaches_the_figures_of_the_design(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIREC_DATA", str(real_data))
    config = retail_rocket.get_config()
    prepare(config.data.to_dict(), tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    rows, target = np.arange(len(prepared.views("test"))), prepared.targets("test")
    histories = prepared.histories("test", rows)
    transition = ItemTransition(*prepared.training_items(), prepared.num_items)
    for baseline, expected in (
        (Recency(transition.popularity), "0.5899/0.5305"),
        (RecencyTransition(transition), "0.6196/0.5426"),
        (transition, "0.4039/0.3114"),
    ):
        lists = baseline.recommend(histories, 10, exclude_seen=False)
        assert figures(item_ranks(lists, target)) == expected
    is_new = np.array(
        [item not in history for item, history in zip(target, histories, strict=True)]
    )
    some = [history for history, new in zip(histories, is_new, strict=True) if new]
    lists = transition.recommend(some, 10, exclude_seen=True)
    assert figures(item_ranks(lists, target[is_new])) == "0.0964/0.0600"


@pytest.fixture(scope="module")
def industrial(real_data):
    return read_industrial(real_data / "amazon_industrial")


def read_industrial(folder):
    rows = {}
    for split in ("train", "valid", "test"):
        with next((folder / split).glob("*.csv")).open(newline="") as file:
            rows[split] = [
                (row["user_id"], ast.literal_eval(row["history_item_id"]), int(row["item_id"]))
                for row in csv.DictReader(file)
            ]
    sequences = {}
    for user, history, target in rows["train"]:
        if user in sequences:
            assert sequences[user] == history
        sequences[user] = [*history, target]
    in_train_file = list(sequences.values())
    # A user without a training row has one training interaction all the same: what precedes the
    # first target. Such a row's history holds exactly that item.
    for user, history, _ in rows["valid"] + rows["test"]:
        if user not in sequences:
            assert len(history) == 1
            sequences[user] = history
    items = [line.rstrip("\n").split("\t") for line in next((folder / "info").glob("*")).open()]
    codes = np.zeros((len(items), 3), np.int32)
    for sid, _, item in items:
        codes[int(item)] = [int(token.split("_")[1]) for token in sid.strip("<>").split("><")]
    histories = [history for _, history, _ in rows["test"]]
    target = np.array([target for _, _, target in rows["test"]])
    return in_train_file, list(sequences.values()), histories, target, codes


def test_industrial_reaches_the_figures_of_the_design(industrial):
    _, sequences, histories, target, codes = industrial
    transition = ItemTransition(*concatenate(sequences), len(codes))
    lists = transition.recommend(histories, 60, exclude_seen=False)
    sids = item_sids(lists, codes)
    assert figures(item_ranks(lists, target)) == "0.1110/0.0830"
    assert figures(sid_ranks(sids, codes[target], keep_duplicates=True)) == "0.1127/0.0894"
    # Counted as the beams of a model are, each SID once, the bar stands a little higher.
    assert figures(sid_ranks(sids, codes[target])) == "0.1132/0.0896"
    lists = transition.popularity.recommend(histories, 60, exclude_seen=False)
    sids = item_sids(lists, codes)
    assert figures(sid_ranks(sids, codes[target])) == "0.0602/0.0510"


def test_industrial_without_the_users_that_have_no_training_row_stays_below(industrial):
    in_train_file, _, histories, target, codes = industrial
    transition = ItemTransition(*concatenate(in_train_file), len(codes))
    lists = transition.recommend(histories, 60, exclude_seen=False)
    assert figures(item_ranks(lists, target)) == "0.1099/0.0826"
