"""The loader's position is exact: restored at every step, it gives the same batches again."""

import dataclasses
import json

import grain
import numpy as np
import pytest

from pipelines.batches.train_batches import BatchConfig, train_batches
from pipelines.synthetic import synthetic_log

NUM_ITEMS = 40
STEPS = 14
CONFIGS = {
    "windows": BatchConfig(16, 5, num_threads=0),
    "windows_threads": BatchConfig(16, 5, num_threads=3, prefetch=5),
    "windows_packed_threads": BatchConfig(16, 5, pack=True, row_items=16, num_threads=2),
    "histories_packed_threads": BatchConfig(
        16, 5, examples="histories", pack=True, row_items=16, num_threads=2, prefetch=1
    ),
}


@pytest.fixture(scope="module")
def log():
    return synthetic_log(12, num_items=NUM_ITEMS)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


@pytest.mark.parametrize("name", CONFIGS)
def test_restoring_at_every_step_gives_everything_that_follows(log, name):
    def make():
        return train_batches(log, CONFIGS[name], seed=0)

    iterator = iter(make())
    states, batches = [], []
    for _ in range(STEPS):
        states.append(json.dumps(iterator.get_state()))
        batches.append(next(iterator))
    assert batches[-1]["epoch"].max() > 0, "the stream should pass an epoch's end here"
    iterator.close()
    for step, state in enumerate(states):
        restored = iter(make())
        restored.set_state(json.loads(state))
        assert json.dumps(restored.get_state()) == state
        for expected in batches[step:]:
            assert_same(next(restored), expected)
        restored.close()


def test_grains_own_transformations_keep_the_position(log):
    def make():
        batches = train_batches(log, CONFIGS["windows_threads"], seed=1)
        return grain.experimental.LimitIterDataset(batches.map(lambda batch: batch["rows"]), 5)

    iterator, seen, states = iter(make()), [], []
    for _ in range(5):
        states.append(iterator.get_state())
        seen.append(next(iterator))
    for step, state in enumerate(states):
        restored = iter(make())
        restored.set_state(state)
        np.testing.assert_array_equal(np.array(list(restored)), np.array(seen[step:]))


def test_a_running_iterator_can_be_set_back_and_forth(log):
    batches = train_batches(log, CONFIGS["windows_threads"], seed=0)
    iterator = iter(batches)
    for target in (3, 0, 11, 2, 2):
        state = iterator.get_state() | {"next_batch": target}
        iterator.set_state(state)
        for index in range(target, target + 4):
            assert_same(next(iterator), batches.batch_at(index))


def test_threads_and_prefetch_change_neither_stream_nor_state(log):
    base = CONFIGS["windows"]
    others = [dataclasses.replace(base, num_threads=t, prefetch=p) for t, p in ((1, 1), (4, 9))]
    expected, *iterators = (iter(train_batches(log, config, seed=0)) for config in (base, *others))
    for _ in range(STEPS):
        batch = next(expected)
        for iterator in iterators:
            assert_same(next(iterator), batch)
            assert iterator.get_state() == expected.get_state()


def other_items(log):
    items = log.columns["item"].copy()
    items[0] = (items[0] + 1) % NUM_ITEMS
    return dataclasses.replace(log, columns=log.columns | {"item": items})


def other_times(log):
    return dataclasses.replace(log, columns=log.columns | {"time": log.columns["time"] + 1})


def other_split(log):
    """The same events, but a view's history begins later."""
    views = log.views("train").copy()
    views[-1, 1] += 1
    return dataclasses.replace(log, splits=log.splits | {"train": views})


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("batch_size", {"config": {"batch_size": 32}}),
        ("process_count", {"process_count": 2}),
        ("seed", {"seed": 1}),
        ("max_items", {"config": {"max_items": 4}}),
        ("examples", {"config": {"examples": "histories"}}),
        ("pack", {"config": {"pack": True}}),
        ("row_items", {"config": {"row_items": 33}}),
        ("stride", {"config": {"stride": 2}}),
        ("first_items", {"config": {"first_items": True}}),
        ("data", {"log": other_items}),
        ("data", {"log": other_times}),
        ("data", {"log": other_split}),
    ],
)
def test_a_position_on_another_stream_is_an_error_with_both_values(log, field, change):
    def make(config=None, log_=log, **kwargs):
        config = dataclasses.replace(CONFIGS["windows"], **(config or {}))
        return train_batches(log_, config, **{"seed": 0, **kwargs})

    change = dict(change)
    other_log = change.pop("log", lambda log: log)
    saved = iter(make()).get_state()
    other = make(log_=other_log(log), **change)
    iterator = iter(other)
    next(iterator)
    was, now = saved["stream"][field], other.stream[field]
    assert was != now
    with pytest.raises(ValueError, match=rf"{field} was {was!r} .* is {now!r} now"):
        iterator.set_state(saved)
    assert iterator.get_state()["next_batch"] == 1, "a refused state must change nothing"


@pytest.mark.parametrize(
    "state",
    [{}, None, {"next_index": 3}, {"next_batch": -1, "stream": {}}, {"next_batch": True}, [1]],
)
def test_what_is_not_a_state_is_an_error(log, state):
    iterator = iter(train_batches(log, CONFIGS["windows"], seed=0))
    with pytest.raises(ValueError, match="is not one: must be what get_state"):
        iterator.set_state(state)


def test_a_closed_iterator_says_so(log):
    iterator = iter(train_batches(log, CONFIGS["windows_threads"], seed=0))
    next(iterator)
    iterator.close()
    with pytest.raises(ValueError, match="closed"):
        next(iterator)
