"""Bits that SID prefixes save on the next item, on chains where the answer is known."""

import numpy as np
import pytest

from minirec.evaluation.sid_information import (
    Transitions,
    hold_out_last,
    item_information,
    prefix_information,
    transitions_of,
)

CLUSTERS, MEMBERS = 6, 20
NUM_ITEMS = CLUSTERS * MEMBERS


def chain(matrix, num_train, num_held_out, seed=0):
    """Transitions whose next cluster follows from the last one alone; items within are random.

    Returns them with the clusters of the items and the mutual information in bits.
    """
    random = np.random.default_rng(seed)
    cluster_of = random.permutation(np.arange(NUM_ITEMS) % CLUSTERS)
    members = np.stack([np.flatnonzero(cluster_of == cluster) for cluster in range(CLUSTERS)])
    first = random.integers(0, CLUSTERS, num_train + num_held_out)
    uniform = random.random(len(first))
    second = (uniform[:, None] > np.cumsum(matrix, axis=1)[first]).sum(axis=1)
    pairs = [members[side, random.integers(0, MEMBERS, len(side))] for side in (first, second)]
    pairs = np.stack(pairs, axis=1)
    marginal = matrix.mean(axis=0)
    bits = (matrix * np.log2(matrix / marginal, where=matrix > 0, out=np.zeros_like(matrix))).sum()
    transitions = Transitions(pairs[:num_train], pairs[num_train:], NUM_ITEMS)
    return transitions, cluster_of, bits / CLUSTERS


@pytest.fixture(scope="module")
def soft():
    matrix = 0.05 + 0.7 * np.roll(np.eye(CLUSTERS), 1, axis=1)
    return chain(matrix, 60_000, 20_000)


def within(cluster_of):
    """A second code that tells the members of a cluster apart."""
    return np.argsort(np.argsort(cluster_of, kind="stable")) % MEMBERS


def test_clusters_that_drive_the_chain_keep_everything_at_their_level(soft):
    transitions, cluster_of, truth = soft
    codes = np.stack([cluster_of, within(cluster_of)], axis=1)
    found = prefix_information(codes, transitions)
    assert [level.num_groups for level in found] == [CLUSTERS, NUM_ITEMS, NUM_ITEMS]
    assert found[0].bits == pytest.approx(truth, abs=4 * found[0].standard_error)
    # What comes below tells nothing more, and costs nothing.
    assert found[-1].bits == pytest.approx(found[0].bits, abs=0.01)
    item_level = item_information(transitions)
    assert 0.85 * truth < item_level.bits < found[0].bits


def test_the_order_of_the_codes_says_where_the_information_lies(soft):
    transitions, cluster_of, truth = soft
    codes = np.stack([within(cluster_of), cluster_of], axis=1)
    found = prefix_information(codes, transitions)
    assert abs(found[0].bits) < 0.02
    assert found[1].bits > 0.8 * truth


def test_random_codes_keep_near_nothing_until_they_name_the_items(soft):
    transitions, _, truth = soft
    codes = np.random.default_rng(1).integers(0, 4, (NUM_ITEMS, 2))
    found = prefix_information(codes, transitions)
    assert abs(found[0].bits) < 0.06 * truth
    assert found[1].bits < 0.3 * truth
    assert found[2].bits > 0.8 * truth


def test_a_chain_without_a_choice_is_worth_the_whole_entropy_and_one_without_a_rule_nothing():
    transitions, cluster_of, truth = chain(np.roll(np.eye(CLUSTERS), 2, axis=1), 20_000, 5_000)
    assert truth == pytest.approx(np.log2(CLUSTERS))
    found = prefix_information(cluster_of[:, None], transitions)
    assert found[0].bits == pytest.approx(truth, abs=0.02)
    transitions, cluster_of, truth = chain(np.full((CLUSTERS,) * 2, 1 / CLUSTERS), 20_000, 5_000)
    assert truth == pytest.approx(0)
    codes = np.stack([cluster_of, within(cluster_of)], axis=1)
    assert all(abs(level.bits) < 0.01 for level in prefix_information(codes, transitions))


def test_with_few_transitions_clusters_tell_more_than_item_pairs():
    matrix = 0.05 + 0.7 * np.roll(np.eye(CLUSTERS), 1, axis=1)
    transitions, cluster_of, truth = chain(matrix, 600, 5_000)
    found = prefix_information(cluster_of[:, None], transitions)
    assert found[0].bits > 0.8 * truth
    assert item_information(transitions).bits < 0.3 * truth


@pytest.fixture(scope="module")
def few():
    random = np.random.default_rng(2)
    train = np.minimum(random.geometric(0.4, (40, 2)) - 1, 5)
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [2, 0]])
    return train, codes


def test_the_model_is_a_distribution_over_the_next_item(few):
    """Popularity times what is saved sums to one over the items, whatever the last item was."""
    train, codes = few
    popularity = (np.bincount(train[:, 1], minlength=6) + 0.5) / (40 + 3)
    for level in range(3):
        for last in range(6):
            total = 0.0
            for following in range(6):
                pair = Transitions(train, np.array([[last, following]]), 6)
                saved = prefix_information(codes, pair)[level].bits
                total += popularity[following] * 2**saved
            assert total == pytest.approx(1.0)


def test_the_prior_is_the_one_with_the_best_leave_one_out_likelihood(few):
    train, codes = few
    group = codes[:, 0]
    popularity = np.bincount(group, weights=np.bincount(train[:, 1], minlength=6) + 0.5) / 43
    grid = 2.0 ** np.arange(-12, 41)
    scores = []
    for alpha in grid:
        score = 0.0
        for left_out in range(40):
            others = group[np.delete(train, left_out, axis=0)]
            before, after = group[train[left_out]]
            out = others[others[:, 0] == before]
            hits = (out[:, 1] == after).sum()
            score += np.log((hits + alpha * popularity[after]) / (len(out) + alpha))
        scores.append(score)
    found = prefix_information(codes, Transitions(train, train, 6))
    assert found[0].alpha == grid[np.argmax(scores)]


def test_neighbours_are_taken_within_sequences_only():
    item, offsets = np.array([4, 1, 3, 2, 0]), np.array([0, 3, 3, 4, 5])
    transitions = transitions_of(item, offsets, np.array([[0, 1]]), 5)
    assert transitions.train.tolist() == [[4, 1], [1, 3]]
    assert transitions.held_out.tolist() == [[0, 1]]


def test_the_last_transition_is_split_off_where_one_is_left_to_count():
    item, offsets = np.array([4, 1, 3, 2, 0, 1, 4, 2]), np.array([0, 3, 3, 4, 6, 8])
    left, left_offsets, held_out = hold_out_last(item, offsets)
    assert left.tolist() == [4, 1, 2, 0, 1, 4, 2]
    assert left_offsets.tolist() == [0, 2, 2, 3, 5, 7]
    assert held_out.tolist() == [[1, 3]]
    left, left_offsets, held_out = hold_out_last(item[:2], np.array([0, 2]))
    assert left.tolist() == [4, 1]
    assert held_out.shape == (0, 2)


def test_wrong_tables_are_named():
    pair = np.array([[0, 1]])
    with pytest.raises(ValueError, match="held_out: no transitions"):
        Transitions(pair, np.zeros((0, 2), int), 2)
    with pytest.raises(ValueError, match="train: item 2 lies outside"):
        Transitions(pair + 1, pair, 2)
    with pytest.raises(ValueError, match="codes: 3 items; the transitions have 2"):
        prefix_information(np.zeros((3, 1), int), Transitions(pair, pair, 2))
