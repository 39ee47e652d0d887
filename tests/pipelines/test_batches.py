"""Training batches: the right events, every example once an epoch, nothing held out."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from pipelines.batches.examples import history_examples, window_examples
from pipelines.batches.train_batches import BatchConfig, train_batches
from pipelines.synthetic import synthetic_log

NUM_ITEMS, MAX_ITEMS = 61, 5
CONFIGS = {
    "windows": BatchConfig(8, MAX_ITEMS, num_threads=0),
    "windows_packed": BatchConfig(8, MAX_ITEMS, pack=True, row_items=13, num_threads=0),
    "histories": BatchConfig(8, MAX_ITEMS, examples="histories", num_threads=0),
    "histories_packed": BatchConfig(
        8, MAX_ITEMS, examples="histories", pack=True, row_items=13, num_threads=0
    ),
}


@pytest.fixture(scope="module")
def log():
    """Events of three types, a second apart, so that a time tells which event it is."""
    log = synthetic_log(23, num_items=NUM_ITEMS, mean_events=11)
    event = np.random.default_rng(0).integers(0, 3, len(log.columns["item"]), np.int32)
    return dataclasses.replace(log, columns=log.columns | {"event": event})


def segments(batch, log):
    """Yields (row, items, which are targets) of every segment, and checks its layout."""
    for row, ids in enumerate(batch["segment"]):
        used = int((ids > 0).sum())
        assert (ids[used:] == 0).all()
        assert set(np.diff(ids[:used])) <= {0, 1}
        for key in ("item", "event", "time"):
            assert (batch[key][row, used:] == -1).all()
        assert not batch["target_weight"][row, used:].any()
        for number in range(1, ids.max() + 1):
            (places,) = np.nonzero(ids == number)
            time = batch["time"][row, places]
            np.testing.assert_array_equal(np.diff(time), 1)
            for key in ("item", "event"):
                np.testing.assert_array_equal(batch[key][row, places], log.columns[key][time])
            items = batch["item"][row, places].tolist()
            yield row, tuple(items), tuple(batch["target_weight"][row, places] > 0)


def epoch_rows(batches, log, epoch):
    """Returns, for every row of an epoch in the stream's order, its segments without the row."""
    start = epoch * batches.num_rows
    size = batches.config.batch_size
    out = []
    for index in range(start // size, -(-(start + batches.num_rows) // size)):
        batch = batches.batch_at(index)
        by_row = [[] for _ in range(size)]
        for row, items, is_target in segments(batch, log):
            by_row[row].append((items, is_target))
        out += [found for found, of in zip(by_row, batch["epoch"], strict=True) if of == epoch]
    return out


def expected_windows(log):
    items = log.columns["item"]
    for _, start, stop in log.views("train"):
        shown = items[max(start, stop - MAX_ITEMS) : stop + 1]
        yield tuple(shown.tolist()), (False,) * (len(shown) - 1) + (True,)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_example_comes_exactly_once_an_epoch(log, name):
    batches = train_batches(log, CONFIGS[name], seed=0)
    first, second = (epoch_rows(batches, log, epoch) for epoch in (0, 1))
    assert len(first) == len(second) == batches.num_rows
    count = Counter(example for row in first for example in row)
    assert count == Counter(example for row in second for example in row)
    assert first != second
    assert count.total() == batches.num_examples
    assert sum(sum(mask) * n for (_, mask), n in count.items()) == batches.num_targets
    if name.startswith("windows"):
        assert count == Counter(expected_windows(log))


@pytest.mark.parametrize("name", CONFIGS)
def test_arrays_have_the_promised_types_and_shapes(log, name):
    batches = train_batches(log, CONFIGS[name], seed=0)
    batch = next(iter(batches))
    shape = (8, 13 if CONFIGS[name].pack else MAX_ITEMS + 1)
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "item": ("int32", shape),
        "event": ("int32", shape),
        "time": ("int64", shape),
        "segment": ("int32", shape),
        "target_weight": ("float32", shape),
        "rows": ("int64", (8,)),
        "epoch": ("int32", (8,)),
        "batch_index": ("int64", (8,)),
    }
    used = sum((batches.batch_at(index)["segment"] > 0).sum() for index in range(batches.num_rows))
    # num_rows batches of eight are eight whole epochs.
    assert used / (8 * batches.num_rows * shape[1]) == pytest.approx(batches.efficiency)


@pytest.mark.parametrize("first_items", [False, True])
def test_every_training_interaction_is_a_target_exactly_once(log, first_items):
    least = 1 if first_items else 2
    for max_items in (1, 2, 5, 8):
        for stride in {None, 1, max_items}:
            examples = history_examples(log.train_sequences, max_items, stride, first_items)
            hits = np.zeros(len(log.columns["item"]), int)
            for start, size, targets in zip(
                examples.start, examples.size, examples.num_targets, strict=True
            ):
                assert least <= size <= max_items + 1
                assert 1 <= targets <= size - least + 1
                hits[start + size - targets : start + size] += 1
            expected = np.zeros_like(hits)
            for _, start, stop in log.train_sequences:
                expected[start + least - 1 : stop] = 1
            np.testing.assert_array_equal(hits, expected)


def test_targets_of_later_windows_see_at_least_half_a_window():
    examples = history_examples(np.array([[0, 100, 143]]), max_items=9)
    first_targets = examples.start + examples.size - examples.num_targets
    assert first_targets.tolist() == [101, 110, 115, 120, 125, 130, 135, 140]
    assert (first_targets - examples.start).tolist() == [1, 5, 5, 5, 5, 5, 5, 7]
    assert (examples.start + examples.size)[-1] == 143


def test_views_and_sequences_without_a_history_are_counted_and_left_out(log):
    views = np.array([[0, 3, 3], [0, 3, 4], [1, 9, 9]])
    assert window_examples(views, 5).left_out == 2
    assert len(window_examples(views, 5)) == 1
    sequences = np.array([[0, 0, 1], [1, 1, 3], [2, 3, 3]])
    assert history_examples(sequences, 5).left_out == 2
    assert history_examples(sequences, 5).start.tolist() == [1]
    alone = dataclasses.replace(log, train_sequences=sequences[[0, 2]])
    with pytest.raises(ValueError, match=r"splits/train_sequences.*2 without a history"):
        train_batches(alone, CONFIGS["histories"], seed=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_held_out_interaction_is_in_any_batch(log, name):
    """Validation and test events get items of their own; those items must never show up."""
    items = log.columns["item"].copy()
    held_out = np.concatenate([log.views("valid")[:, 2], log.views("test")[:, 2]])
    items[held_out] = NUM_ITEMS
    columns = log.columns | {"item": items}
    marked = dataclasses.replace(log, columns=columns, num_items=NUM_ITEMS + 1)
    batches = train_batches(marked, CONFIGS[name], seed=0)
    for index in range(batches.batches_per_epoch):
        batch = batches.batch_at(index)
        assert (batch["item"] != NUM_ITEMS).all()
        assert not np.isin(batch["time"], held_out).any()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("process_count", [2, 4])
def test_the_processes_slices_make_up_the_global_batch(log, name, process_count):
    config = CONFIGS[name]
    whole = iter(train_batches(log, config, seed=3))
    parts = [
        iter(train_batches(log, config, seed=3, process_index=index, process_count=process_count))
        for index in range(process_count)
    ]
    for _ in range(2 * len(log.views("train")) // config.batch_size):
        expected, slices = next(whole), [next(part) for part in parts]
        for key, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([part[key] for part in slices]), value)


def test_a_batch_larger_than_the_data_repeats_epoch_after_epoch(log):
    config = BatchConfig(700, MAX_ITEMS, examples="histories", num_threads=0)
    batches = train_batches(log, config, seed=0)
    batch = batches.batch_at(1)
    assert batches.num_rows < 100
    assert (np.diff(batch["epoch"]) >= 0).all()
    for epoch in np.unique(batch["epoch"])[1:-1]:
        rows = batch["rows"][batch["epoch"] == epoch]
        np.testing.assert_array_equal(np.sort(rows), np.arange(batches.num_rows))


def test_seeds_give_different_orders_and_the_same_seed_the_same(log):
    once, again, other = (
        train_batches(log, CONFIGS["windows"], seed=seed).batch_at(0)["rows"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


@pytest.mark.parametrize("name", ["windows", "histories_packed"])
def test_a_batch_can_be_described_by_its_users(log, name):
    batches = train_batches(log, CONFIGS[name], seed=4)
    batch = batches.batch_at(30)
    text = batches.describe(batch, limit=2)
    assert text.startswith("batch 30 of seed 4, epoch ")
    assert f"row {batch['rows'][0]} (user " in text
    assert text.endswith(" and 6 more")
    if name == "windows":
        assert f"(user {log.views('train')[batch['rows'][1], 0]})" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process_count": 3}, "batch_size=8: must be a multiple of process_count=3"),
        ({"process_index": 1}, r"process_index=1: must lie in \[0, process_count=1\)"),
        ({"row_items": 5}, r"row_items=5: the longest example \(user .* has 6 items"),
        ({"views": np.zeros((0, 3), int)}, "splits/train: no training example in 0 rows"),
        ({"views": np.array([[0, 0, 10**6]])}, r"splits/train: row 0 is \[0, 0, 1000000\]"),
        ({"items": [0, 5, 99]}, r"event 2 has item 99: must lie in \[0, 61\)"),
        ({"items": [0, 5, 9]}, r"columns/event: has shape \[\d+\], columns/item \[3\]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(log, change, message):
    config = CONFIGS["windows"]
    change = dict(change)
    if "row_items" in change:
        config = dataclasses.replace(config, row_items=change.pop("row_items"))
    if "views" in change:
        log = dataclasses.replace(log, splits={"train": change.pop("views")})
    if "items" in change:
        columns = log.columns | {"item": np.array(change.pop("items"))}
        log = dataclasses.replace(log, columns=columns)
    with pytest.raises(ValueError, match=message):
        train_batches(log, config, seed=0, **change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("max_items", 0),
        ("examples", "sessions"),
        ("row_items", 0),
        ("stride", 6),
        ("stride", 0),
        ("num_threads", -1),
        ("prefetch", -1),
        ("num_workers", -1),
    ],
)
def test_a_config_that_cannot_be_meant_is_an_error(field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r}"):
        dataclasses.replace(CONFIGS["histories"], **{field: value})
