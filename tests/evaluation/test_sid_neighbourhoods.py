"""How much of a neighbourhood prefixes keep, against counting pair by pair."""

import numpy as np
import pytest

from minirec.evaluation.sid_neighbourhoods import (
    Neighbourhood,
    kept_by_chance,
    kept_by_prefixes,
    transition_neighbourhood,
)

CODES = np.random.default_rng(0).integers(0, 3, (40, 3))


def same_prefix(item, other, length):
    return (CODES[item, :length] == CODES[other, :length]).all()


def test_shares_are_those_of_counting_pair_by_pair():
    rng = np.random.default_rng(1)
    rows = [np.setdiff1d(rng.choice(40, rng.integers(0, 8)), [n]) for n in range(40)]
    offsets = np.cumsum([0, *map(len, rows)])
    found = kept_by_prefixes(CODES, Neighbourhood(offsets, np.concatenate(rows)))
    for length, share in enumerate(found, start=1):
        each = [
            np.mean([same_prefix(item, other, length) for other in row])
            for item, row in enumerate(rows)
            if len(row)
        ]
        assert share == pytest.approx(np.mean(each))
    assert found[0] > found[1] > found[2]


def test_chance_is_that_of_all_pairs():
    for length, share in enumerate(kept_by_chance(CODES), start=1):
        pairs = [same_prefix(a, b, length) for a in range(40) for b in range(40) if a != b]
        assert share == pytest.approx(np.mean(pairs))


def test_the_nearest_by_transitions_are_the_most_frequent_neighbours_on_either_side():
    pairs = np.array([[0, 1], [0, 1], [2, 0], [0, 3], [3, 0], [4, 0], [5, 5], [1, 4]])
    around = transition_neighbourhood(pairs, 7, number=3)
    rows = [
        around.item[start:stop].tolist()
        for start, stop in zip(around.offsets[:-1], around.offsets[1:], strict=True)
    ]
    # Of those that came as often, 2 and 4, the lower; 5 came after itself alone, 6 not at all.
    assert rows == [[1, 3, 2], [0, 4], [0], [0], [0, 1], [], []]


def test_nobody_has_neighbours():
    none = Neighbourhood(np.zeros(41, np.int64), np.zeros(0, np.int32))
    assert kept_by_prefixes(CODES, none) == [0, 0, 0]
    assert kept_by_chance(np.zeros((1, 2), int)) == [0, 0]


def test_other_catalogues_are_refused():
    none = Neighbourhood(np.zeros(4, np.int64), np.zeros(0, np.int32))
    with pytest.raises(ValueError, match="40 items; there are 3"):
        kept_by_prefixes(CODES, none)
