"""Training batches: the right tokens, every example once an epoch, nothing held out."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from pipelines.batches.examples import history_examples, window_examples
from pipelines.batches.train_batches import BatchConfig, train_batches
from pipelines.synthetic import synthetic_log

NUM_ITEMS, NUM_LEVELS, MAX_ITEMS = 61, 3, 5
PAD, BOS = 0, 1
CONFIGS = {
    "windows": BatchConfig(8, MAX_ITEMS, num_threads=0),
    "windows_packed": BatchConfig(8, MAX_ITEMS, pack=True, row_tokens=40, num_threads=0),
    "histories": BatchConfig(8, MAX_ITEMS, examples="histories", num_threads=0),
    "histories_packed": BatchConfig(
        8, MAX_ITEMS, examples="histories", pack=True, row_tokens=40, num_threads=0
    ),
}


@pytest.fixture(scope="module")
def log():
    return synthetic_log(23, num_items=NUM_ITEMS, mean_events=11)


@pytest.fixture(scope="module")
def item_tokens():
    """Every item's tokens are its own, so that items can be read back from tokens."""
    return np.arange(NUM_ITEMS * NUM_LEVELS).reshape(NUM_ITEMS, NUM_LEVELS)[::-1] + 2


def segments(batch):
    """Yields (row, items, which are targets) of every segment, and checks its layout."""
    for row in range(len(batch["tokens"])):
        ids = batch["segment_ids"][row]
        used = int((ids > 0).sum())
        assert (ids[used:] == 0).all()
        assert set(np.diff(ids[:used])) <= {0, 1}
        for key in ("tokens", "targets", "positions", "loss_mask"):
            assert not batch[key][row, used:].any()
        for number in range(1, ids.max() + 1):
            (places,) = np.nonzero(ids == number)
            tokens, targets = batch["tokens"][row, places], batch["targets"][row, places]
            assert tokens[0] == BOS
            np.testing.assert_array_equal(tokens[1:], targets[:-1])
            np.testing.assert_array_equal(batch["positions"][row, places], np.arange(len(places)))
            levels = (targets - 2).reshape(-1, NUM_LEVELS)
            np.testing.assert_array_equal(levels % NUM_LEVELS, [range(NUM_LEVELS)] * len(levels))
            items = NUM_ITEMS - 1 - levels[:, 0] // NUM_LEVELS
            mask = batch["loss_mask"][row, places].reshape(-1, NUM_LEVELS)
            assert (mask == mask[:, :1]).all()
            yield row, tuple(items.tolist()), tuple(mask[:, 0] > 0)


def epoch_rows(batches, epoch):
    """Returns, for every row of an epoch in the stream's order, its segments without the row."""
    start = epoch * batches.num_rows
    size = batches.config.batch_size
    out = []
    for index in range(start // size, -(-(start + batches.num_rows) // size)):
        batch = batches.batch_at(index)
        by_row = [[] for _ in range(size)]
        for row, items, is_target in segments(batch):
            by_row[row].append((items, is_target))
        out += [found for found, of in zip(by_row, batch["epoch"], strict=True) if of == epoch]
    return out


def expected_windows(log):
    items = log.columns["item"]
    for _, start, stop in log.views("train"):
        shown = items[max(start, stop - MAX_ITEMS) : stop + 1]
        yield tuple(shown.tolist()), (False,) * (len(shown) - 1) + (True,)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_example_comes_exactly_once_an_epoch(log, item_tokens, name):
    batches = train_batches(log, item_tokens, CONFIGS[name], seed=0)
    first, second = (epoch_rows(batches, epoch) for epoch in (0, 1))
    assert len(first) == len(second) == batches.num_rows
    count = Counter(example for row in first for example in row)
    assert count == Counter(example for row in second for example in row)
    assert first != second
    assert count.total() == batches.num_examples
    assert sum(sum(mask) * n for (_, mask), n in count.items()) == batches.num_targets
    if name.startswith("windows"):
        assert count == Counter(expected_windows(log))


@pytest.mark.parametrize("name", CONFIGS)
def test_arrays_have_the_promised_types_and_shapes(log, item_tokens, name):
    batches = train_batches(log, item_tokens, CONFIGS[name], seed=0)
    batch = next(iter(batches))
    shape = (8, 40 if CONFIGS[name].pack else (MAX_ITEMS + 1) * NUM_LEVELS)
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "tokens": ("int32", shape),
        "targets": ("int32", shape),
        "loss_mask": ("float32", shape),
        "positions": ("int32", shape),
        "segment_ids": ("int32", shape),
        "rows": ("int64", (8,)),
        "epoch": ("int32", (8,)),
        "batch_index": ("int64", (8,)),
    }
    used = sum(
        (batches.batch_at(index)["segment_ids"] > 0).sum() for index in range(batches.num_rows)
    )
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


def test_views_and_sequences_without_a_history_are_counted_and_left_out(log, item_tokens):
    views = np.array([[0, 3, 3], [0, 3, 4], [1, 9, 9]])
    assert window_examples(views, 5).left_out == 2
    assert len(window_examples(views, 5)) == 1
    sequences = np.array([[0, 0, 1], [1, 1, 3], [2, 3, 3]])
    assert history_examples(sequences, 5).left_out == 2
    assert history_examples(sequences, 5).start.tolist() == [1]
    alone = dataclasses.replace(log, train_sequences=sequences[[0, 2]])
    with pytest.raises(ValueError, match=r"splits/train_sequences.*2 without a history"):
        train_batches(alone, item_tokens, CONFIGS["histories"], seed=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_held_out_interaction_is_in_any_batch(log, name):
    """Validation and test events get items of their own; those items must never show up."""
    items = log.columns["item"].copy()
    held_out = np.concatenate([log.views("valid")[:, 2], log.views("test")[:, 2]])
    items[held_out] = NUM_ITEMS
    marked = dataclasses.replace(log, columns={"item": items}, num_items=NUM_ITEMS + 1)
    tokens = np.arange((NUM_ITEMS + 1) * NUM_LEVELS).reshape(-1, NUM_LEVELS) + 2
    batches = train_batches(marked, tokens, CONFIGS[name], seed=0)
    for index in range(batches.batches_per_epoch):
        batch = batches.batch_at(index)
        for key in ("tokens", "targets"):
            assert not np.isin(batch[key], tokens[NUM_ITEMS]).any()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("process_count", [2, 4])
def test_the_processes_slices_make_up_the_global_batch(log, item_tokens, name, process_count):
    config = CONFIGS[name]
    whole = iter(train_batches(log, item_tokens, config, seed=3))
    parts = [
        iter(
            train_batches(
                log, item_tokens, config, seed=3, process_index=index, process_count=process_count
            )
        )
        for index in range(process_count)
    ]
    for _ in range(2 * len(log.views("train")) // config.batch_size):
        expected, slices = next(whole), [next(part) for part in parts]
        for key, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([part[key] for part in slices]), value)


def test_a_batch_larger_than_the_data_repeats_epoch_after_epoch(log, item_tokens):
    config = BatchConfig(700, MAX_ITEMS, examples="histories", num_threads=0)
    batches = train_batches(log, item_tokens, config, seed=0)
    batch = batches.batch_at(1)
    assert batches.num_rows < 100
    assert (np.diff(batch["epoch"]) >= 0).all()
    for epoch in np.unique(batch["epoch"])[1:-1]:
        rows = batch["rows"][batch["epoch"] == epoch]
        np.testing.assert_array_equal(np.sort(rows), np.arange(batches.num_rows))


def test_seeds_give_different_orders_and_the_same_seed_the_same(log, item_tokens):
    once, again, other = (
        train_batches(log, item_tokens, CONFIGS["windows"], seed=seed).batch_at(0)["rows"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


@pytest.mark.parametrize("name", ["windows", "histories_packed"])
def test_a_batch_can_be_described_by_its_users(log, item_tokens, name):
    batches = train_batches(log, item_tokens, CONFIGS[name], seed=4)
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
        ({"tokens": np.full((4, 3), 2)}, r"item_tokens has shape \[4, 3\].*must be \[61, L\]"),
        ({"tokens": np.full(NUM_ITEMS, 2)}, r"item_tokens has shape \[61\]"),
        ({"tokens": np.full((NUM_ITEMS, 3), 2.0)}, "dtype float64: must be integers"),
        ({"tokens": np.full((NUM_ITEMS, 3), 1)}, r"item_tokens\[0, 0\] = 1"),
        ({"process_count": 3}, "batch_size=8: must be a multiple of process_count=3"),
        ({"process_index": 1}, r"process_index=1: must lie in \[0, process_count=1\)"),
        ({"row_tokens": 17}, r"row_tokens=17: the longest example \(user .* needs 18"),
        ({"views": np.zeros((0, 3), int)}, "splits/train: no training example in 0 rows"),
        ({"views": np.array([[0, 0, 10**6]])}, r"splits/train: row 0 is \[0, 0, 1000000\]"),
        ({"items": [0, 5, 99]}, r"event 2 has item 99: must lie in \[0, 61\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(log, item_tokens, change, message):
    config = CONFIGS["windows"]
    if "row_tokens" in change:
        config = dataclasses.replace(config, row_tokens=change.pop("row_tokens"))
    if "views" in change:
        log = dataclasses.replace(log, splits={"train": change.pop("views")})
    if "items" in change:
        log = dataclasses.replace(log, columns={"item": np.array(change.pop("items"))})
    tokens = change.pop("tokens", item_tokens)
    with pytest.raises(ValueError, match=message):
        train_batches(log, tokens, config, seed=0, **change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("max_items", 0),
        ("examples", "sessions"),
        ("row_tokens", 0),
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
