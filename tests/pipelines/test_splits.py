import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.prepare.splits import make_split
from pipelines.tables.interactions import GivenSplit

CONFIGS = [
    {"name": "leave_one_out"},
    {"name": "per_user_ratio"},
    {"name": "per_user_ratio", "valid": 0.25, "test": 0.3},
    {"name": "global_time"},
    {"name": "global_time", "fractions": [0.5, 0.2, 0.3]},
    {"name": "global_time", "timestamps": [4, 7]},
]


def offsets_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_interaction_is_counted_in_exactly_one_place(config, data):
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    offsets = offsets_of(lengths)
    time = np.concatenate(
        [np.sort(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))) for n in lengths]
    )
    time[0] = -1
    # With this user's first event the oldest, and alone so, only a fraction can leave no training.
    if config["name"] == "global_time" and "timestamps" not in config:
        assume(np.sort(time)[int(config.get("fractions", [0.8])[0] * len(time))] > -1)
    split = make_split(config, offsets, time)

    trained = [p for _, start, stop in split.train_sequences for p in range(start, stop)]
    held_out = [*split.valid[:, 2], *split.test[:, 2]]
    counts = split.counts
    assert len(set(trained)) == len(trained) == counts["train_interactions"]
    assert len(set(held_out)) == len(held_out)
    assert not set(trained) & set(held_out)
    missing = set(range(offsets[-1])) - set(trained) - set(held_out)
    assert len(missing) == counts["targets_without_history"]
    assert missing <= set(offsets[:-1].tolist())
    assert counts["context_only"] == 0

    for views in (split.train, split.valid, split.test):
        for user, start, stop in views:
            assert offsets[user] <= start < stop < offsets[user + 1]
    expected = [
        (user, start, stop)
        for user, start, end in split.train_sequences
        for stop in range(start + 1, end)
    ]
    assert [tuple(view) for view in split.train] == expected
    for name in ("train_sequences", "train", "valid", "test"):
        assert getattr(split, name).dtype == np.int64
        assert getattr(split, name).shape[1] == 3


def plain_split(config, offsets, time):
    """Whether each event trains, validates or tests, event by event."""
    by_time = sorted(time)
    fractions = config.get("fractions", [0.8, 0.1, 0.1])
    limits = config.get(
        "timestamps",
        [by_time[int(sum(fractions[:count]) * len(time) + 1e-9)] for count in (1, 2)],
    )
    parts = []
    for start, stop in itertools.pairwise(offsets):
        length = stop - start
        tail = {"valid": 0, "test": 0}
        for name in tail:
            if length >= 3 and config["name"] == "leave_one_out":
                tail[name] = 1
            elif length >= 3:
                tail[name] = max(1, int(length * config.get(name, 0.1) + 1e-9))
        for place in range(start, stop):
            if config["name"] == "global_time":
                part = sum(time[place] >= limit for limit in limits)
            else:
                left = stop - place
                part = 2 if left <= tail["test"] else int(left <= sum(tail.values()))
            parts.append(("train", "valid", "test")[part])
    return parts


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_split_is_what_plain_loops_make_of_it(config):
    rng = np.random.default_rng(3)
    offsets = offsets_of(rng.integers(1, 40, 60))
    time = np.concatenate(
        [np.sort(rng.integers(0, 12, stop - start)) for start, stop in itertools.pairwise(offsets)]
    )
    split = make_split(config, offsets, time)
    parts = plain_split(config, offsets, time)
    user_of = np.repeat(np.arange(60), np.diff(offsets))
    for name, views in (("train", split.train), ("valid", split.valid), ("test", split.test)):
        assert [tuple(view) for view in views] == [
            (user_of[place], offsets[user_of[place]], place)
            for place, part in enumerate(parts)
            if part == name and place > offsets[user_of[place]]
        ]
    assert split.counts["train_interactions"] == parts.count("train")


def test_leave_one_out_holds_out_the_last_two_and_counts_short_users():
    split = make_split({"name": "leave_one_out"}, offsets_of([4, 2, 3]), np.zeros(9))
    assert split.train_sequences.tolist() == [[0, 0, 2], [1, 4, 6], [2, 6, 7]]
    assert split.valid.tolist() == [[0, 0, 2], [2, 6, 7]]
    assert split.test.tolist() == [[0, 0, 3], [2, 6, 8]]
    assert split.counts["users_not_evaluated"] == 1


def test_per_user_ratio_keeps_a_tenth_for_each_part():
    split = make_split({"name": "per_user_ratio"}, offsets_of([30, 3, 2]), np.zeros(35))
    assert split.train_sequences.tolist() == [[0, 0, 24], [1, 30, 31], [2, 33, 35]]
    assert split.valid[:, 2].tolist() == [24, 25, 26, 31]
    assert split.test[:, 2].tolist() == [27, 28, 29, 32]
    assert split.test[:3, 1].tolist() == [0, 0, 0]
    assert split.counts["users_not_evaluated"] == 1


def test_global_time_never_tears_one_moment_apart():
    offsets = offsets_of([5, 5])
    time = np.array([0, 1, 2, 2, 2, 0, 1, 2, 2, 3])
    split = make_split({"name": "global_time", "fractions": [0.5, 0.4, 0.1]}, offsets, time)
    # Half of the events is the middle of the six at time 2: all of them are validation.
    assert split.train_sequences.tolist() == [[0, 0, 2], [1, 5, 7]]
    assert split.valid[:, 2].tolist() == [2, 3, 4, 7, 8]
    assert split.test[:, 2].tolist() == [9]
    assert split.counts["valid_time"] == 2


def test_a_held_out_first_event_is_no_view_but_counted():
    config = {"name": "global_time", "timestamps": [5, 8]}
    split = make_split(config, offsets_of([2, 2]), np.array([1, 2, 6, 9]))
    assert split.test.tolist() == [[1, 2, 3]]
    assert split.valid.tolist() == []
    assert split.counts["targets_without_history"] == 1


def test_as_given_is_taken_as_it_is():
    given_split = GivenSplit(np.array([[0, 2]]), np.array([[0, 2]]), np.array([[4, 5]]))
    split = make_split({"name": "as_given"}, offsets_of([4, 3]), np.zeros(7), given=given_split)
    assert split.train_sequences.tolist() == [[0, 0, 2]]
    assert split.train.tolist() == [[0, 0, 1]]
    assert split.test.tolist() == [[1, 4, 5]]
    assert split.counts["context_only"] == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "random"}, "'random'; it must be one of leave_one_out"),
        ({}, "split.name is None"),
        ({"name": "leave_one_out", "ratio": 1}, r"split.ratio is not a field of 'leave_one_out'"),
        ({"name": "as_given"}, "brings its own split"),
        ({"name": "per_user_ratio", "valid": 0.6, "test": 0.6}, "must be less than 1"),
        ({"name": "per_user_ratio", "valid": 0.0}, "split.valid is 0.0"),
        ({"name": "global_time", "fractions": [0.5, 0.5]}, "three positive numbers"),
        ({"name": "global_time", "timestamps": [5, 3]}, "two times in order"),
        ({"name": "global_time", "timestamps": [1, 2], "fractions": [0.8, 0.1, 0.1]}, "both"),
        ({"name": "global_time", "timestamps": [-2, 3]}, "nothing is left to train on"),
    ],
)
def test_a_wrong_split_is_an_error_that_names_the_field(config, message):
    with pytest.raises(ValueError, match=message):
        make_split(config, offsets_of([3, 3]), np.arange(6))


def test_global_time_without_times_is_refused():
    with pytest.raises(ValueError, match="needs times"):
        make_split({"name": "global_time"}, offsets_of([3]), np.arange(3), has_times=False)
