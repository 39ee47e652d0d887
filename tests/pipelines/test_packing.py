"""Packing puts every example in one row and overfills none; the shuffle is a bijection."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.batches.packing import pack
from pipelines.batches.shuffle import shuffled_rows


def fills(lengths, plan):
    return np.add.reduceat(lengths[plan.examples], plan.offsets[:-1])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.data())
def test_every_example_is_in_one_row_and_no_row_is_overfull(capacity, data):
    lengths = np.array(data.draw(st.lists(st.integers(1, capacity), min_size=1, max_size=60)))
    plan = pack(lengths, capacity, seed=3)
    assert sorted(plan.examples.tolist()) == list(range(len(lengths)))
    assert plan.offsets[0] == 0
    assert plan.offsets[-1] == len(lengths)
    assert (np.diff(plan.offsets) >= 1).all()
    assert fills(lengths, plan).max() <= capacity


def best_fit_decreasing(lengths, capacity):
    """How many rows the textbook algorithm needs, one example at a time."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(capacity - length)
    return len(rooms)


@pytest.mark.parametrize("seed", range(8))
def test_the_histogram_gives_as_few_rows_as_best_fit_decreasing(seed):
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(5, 60))
    lengths = rng.integers(1, capacity + 1, 300)
    plan = pack(lengths, capacity, seed=seed)
    assert plan.num_rows == best_fit_decreasing(lengths.tolist(), capacity)


def test_short_examples_leave_little_padding():
    lengths = np.minimum(np.random.default_rng(0).geometric(0.15, 20_000) + 1, 51)
    plan = pack(lengths, 51, seed=0)
    assert lengths.sum() / (plan.num_rows * 51) > 0.99


def test_a_seed_gives_the_same_plan_and_another_seed_other_neighbours():
    lengths = np.random.default_rng(0).integers(1, 9, 500)
    once, again, other = (pack(lengths, 20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once.examples, again.examples)
    np.testing.assert_array_equal(once.offsets, other.offsets)
    assert (once.examples != other.examples).any()


@pytest.mark.parametrize(("lengths", "named"), [([3, 8, 2], "example 1"), ([3, 2, 0], "example 2")])
def test_a_length_that_fits_no_row_is_named(lengths, named):
    with pytest.raises(ValueError, match=f"{named} has length .* from 1 to 7"):
        pack(np.array(lengths), 7, seed=0)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 7, 12, 100, 101, 4096, 5001])
def test_every_row_comes_once_an_epoch(num_rows):
    rows = shuffled_rows(np.arange(num_rows), num_rows, seed=-5, epoch=3)
    np.testing.assert_array_equal(np.sort(rows), np.arange(num_rows))


def test_positions_can_be_asked_for_in_any_order_and_over_several_epochs():
    whole = [shuffled_rows(np.arange(77), 77, seed=1, epoch=epoch) for epoch in range(4)]
    place = np.random.default_rng(0).integers(0, 77, 500)
    epoch = np.random.default_rng(1).integers(0, 4, 500)
    some = shuffled_rows(place, 77, seed=1, epoch=epoch)
    np.testing.assert_array_equal(some, np.array(whole)[epoch, place])


def test_the_shuffle_never_changes_between_versions():
    """A checkpoint's position means this order: another one would silently reshuffle its data."""
    assert shuffled_rows(np.arange(10), 10, seed=0, epoch=0).tolist() == [
        9,
        3,
        6,
        4,
        8,
        0,
        5,
        7,
        1,
        2,
    ]
    assert int(shuffled_rows(np.array([10**9]), 2**40, seed=7, epoch=2)[0]) == 890030683377


def test_every_row_is_as_likely_at_every_place():
    num_rows, epochs = 23, 4000
    place, epoch = (grid.reshape(-1) for grid in np.indices((num_rows, epochs)))
    rows = shuffled_rows(place, num_rows, seed=1, epoch=epoch)
    counts = np.bincount(place * num_rows + rows, minlength=num_rows**2)
    expected = epochs / num_rows
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (num_rows - 1) ** 2
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_an_empty_epoch_is_an_error():
    with pytest.raises(ValueError, match="num_rows=0"):
        shuffled_rows(np.zeros(0, np.int64), 0, seed=0)
