"""Evaluation batches: every view once, the newest history in the prompt, few shapes."""

import dataclasses

import numpy as np
import pytest

from pipelines.batches.eval_batches import eval_batches, prompt_batch
from pipelines.synthetic import synthetic_log

NUM_ITEMS = 61


@pytest.fixture(scope="module")
def log():
    return synthetic_log(90, num_items=NUM_ITEMS, mean_events=14)


def check_prompt(batch, row, history, max_items):
    shown = history[-max_items:] if len(history) else history
    assert batch["lengths"][row] == len(shown)
    np.testing.assert_array_equal(batch["item"][row, : len(shown)], shown)
    assert (batch["item"][row, len(shown) :] == -1).all()
    np.testing.assert_array_equal(batch["history"][row, : len(history)], history)
    assert (batch["history"][row, len(history) :] == -1).all()


@pytest.mark.parametrize("max_items", [1, 5, 16, 20, 100])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_every_view_comes_once_with_its_history_and_target(log, split, max_items):
    batches = eval_batches(log, split, batch_size=16, max_items=max_items)
    views, items = log.views(split), log.columns["item"]
    seen, shapes = [], set()
    for batch in batches:
        shapes.add((batch["item"].shape[1], batch["history"].shape[1]))
        for row in np.flatnonzero(batch["valid"]):
            user, start, stop = views[batch["row"][row]]
            seen.append(int(batch["row"][row]))
            assert batch["user"][row] == user
            assert batch["target"][row] == items[stop]
            check_prompt(batch, row, items[start:stop], max_items)
            events = slice(max(start, stop - max_items), stop)
            for name in ("event", "time"):
                shown, expected = batch[name][row], log.columns[name][events]
                np.testing.assert_array_equal(shown[: len(expected)], expected)
                assert (shown[len(expected) :] == -1).all()
    assert sorted(seen) == list(range(len(views)))
    assert len(batches) == 6
    assert sorted(shapes) == batches.shapes
    assert len(shapes) <= 5
    assert all(held & (held - 1) == 0 for _, held in shapes)


def test_only_the_last_batch_is_filled_up_and_its_extra_rows_are_harmless(log):
    batches = list(eval_batches(log, "test", batch_size=16, max_items=5))
    assert [int(batch["valid"].sum()) for batch in batches] == [16] * 5 + [10]
    last = batches[-1]
    assert {key: value.dtype.name for key, value in last.items()} == {
        "item": "int32",
        "event": "int32",
        "time": "int64",
        "lengths": "int32",
        "history": "int32",
        "target": "int32",
        "user": "int32",
        "row": "int64",
        "valid": "bool",
    }
    assert (last["lengths"][10:] == 0).all()
    for key in ("item", "event", "time", "history", "target", "user", "row"):
        assert (last[key][10:] == -1).all()


def test_batches_can_be_gone_through_again(log):
    batches = eval_batches(log, "test", batch_size=32, max_items=5)
    for one, other in zip(batches, batches, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_short_histories_have_short_prompts(log):
    batches = list(eval_batches(log, "test", batch_size=8, max_items=32))
    widths = [batch["item"].shape[1] for batch in batches]
    assert widths == sorted(widths)
    assert widths[0] == 8
    assert widths[-1] == 32


def test_a_sample_of_users_is_fixed_by_its_seed_and_grows_by_adding(log):
    def sample(max_users, seed):
        batches = eval_batches(
            log, "valid", batch_size=7, max_items=5, max_users=max_users, seed=seed
        )
        assert batches.num_views == min(max_users, 90)
        return {int(row) for batch in batches for row in batch["row"][batch["valid"]]}

    assert len(sample(20, 0)) == 20
    assert sample(20, 0) == sample(20, 0)
    assert sample(20, 0) != sample(20, 1)
    assert sample(20, 0) < sample(33, 0)
    assert sample(500, 0) == set(range(90))


def test_a_view_without_a_history_is_an_empty_prompt(log):
    log = dataclasses.replace(log, splits={"test": np.array([[0, 2, 2], [1, 20, 21]])})
    (batch,) = eval_batches(log, "test", batch_size=2, max_items=5)
    assert batch["lengths"].tolist() == [0, 1]
    assert batch["valid"].all()
    assert batch["target"][0] == log.columns["item"][2]


def test_given_histories_become_the_same_prompts(log):
    (expected,) = eval_batches(log, "test", batch_size=128, max_items=9)
    views, items = log.views("test"), log.columns["item"]
    histories = [items[start:stop] for _, start, stop in views[expected["row"][:90]]]
    batch = prompt_batch(histories, NUM_ITEMS, max_items=9, batch_size=128)
    assert batch.keys() == expected.keys() - {"target", "event", "time"}
    for key in ("item", "lengths", "history", "valid"):
        np.testing.assert_array_equal(batch[key], expected[key])
    assert batch["user"].tolist() == [*range(90), *[-1] * 38]


def test_histories_may_be_lists_empty_or_missing():
    batch = prompt_batch([[3, 4], []], NUM_ITEMS, max_items=9, batch_size=3)
    check_prompt(batch, 0, [3, 4], 9)
    check_prompt(batch, 1, [], 9)
    assert batch["valid"].tolist() == [True, True, False]
    assert not prompt_batch([], NUM_ITEMS, max_items=9, batch_size=3)["valid"].any()


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ([[1], [2, 61]], r"history 1: item 61 at place 1: must lie in \[0, 61\)"),
        ([[-1]], "history 0: item -1"),
        ([[1]] * 4, "4 histories: at most batch_size=3"),
    ],
)
def test_histories_that_cannot_be_read_are_named(histories, message):
    with pytest.raises(ValueError, match=message):
        prompt_batch(histories, NUM_ITEMS, max_items=9, batch_size=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_items": 0}, "max_items=0"),
        ({"max_users": 0}, "max_users=0"),
        ({"split": "valid", "views": np.zeros((0, 3), int)}, "splits/valid: no views"),
        ({"views": np.array([[0, 5, 4]])}, r"splits/test: row 0 is \[0, 5, 4\]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(log, change, message):
    arguments = {"split": "test", "batch_size": 4, "max_items": 5}
    arguments |= change
    if "views" in change:
        log = dataclasses.replace(log, splits={arguments["split"]: arguments.pop("views")})
    with pytest.raises(ValueError, match=message):
        eval_batches(log, **arguments)
