"""How fast the loader is, beside a Grain pipeline that works element by element."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import grain
import numpy as np

from minirec.sids import SidVocab
from pipelines.batches import Batch, BatchConfig, TrainBatches, train_batches

_NUM_ITEMS = 12_000
_NUM_LEVELS = 4
_MAX_ITEMS = 10
_BATCH_SIZE = 512
_KEYS = ("tokens", "targets", "loss_mask", "positions", "segment_ids")


@dataclasses.dataclass(frozen=True)
class SyntheticLog:
    """A prepared data set in memory, of random items: what the loader reads and nothing more."""

    columns: dict[str, np.ndarray]
    offsets: np.ndarray
    train_sequences: np.ndarray
    num_items: int
    splits: dict[str, np.ndarray]
    event_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def views(self, split: str) -> np.ndarray:
        """Returns the views of a split."""
        return self.splits[split]


def synthetic_log(
    num_users: int, *, num_items: int = _NUM_ITEMS, mean_events: int = 12, seed: int = 0
) -> SyntheticLog:
    """Returns a log of random items, at least four events a user, a long tail, leave-one-out."""
    rng = np.random.default_rng(seed)
    length = rng.geometric(1 / (mean_events - 3), num_users) + 3
    offsets = np.concatenate([[0], np.cumsum(length)])
    items = rng.integers(0, num_items, offsets[-1], np.int32)
    users, start, end = np.arange(num_users), offsets[:-1], offsets[1:]
    in_training = length - 2
    of_view = np.repeat(users, in_training - 1)
    first_view = np.cumsum(in_training - 1) - (in_training - 1)
    stop = start[of_view] + 1 + np.arange(len(of_view)) - first_view[of_view]
    splits = {
        "train": np.stack([of_view, start[of_view], stop], axis=1),
        "valid": np.stack([users, start, end - 2], axis=1),
        "test": np.stack([users, start, end - 1], axis=1),
    }
    sequences = np.stack([users, start, end - 2], axis=1)
    return SyntheticLog({"item": items}, offsets, sequences, num_items, splits)


def run(
    num_users: int = 110_000, seconds: float = 2.0, batch_size: int = _BATCH_SIZE
) -> Iterator[dict[str, Any]]:
    """Measures the loader on one core, and yields a row a case.

    The per-element pipeline makes the same arrays of the same views, one view at a time: source,
    global shuffle, map, batch, all of Grain. Both run in this process, bound to one core, with
    nothing made ahead (Grain's advice for data in memory), and once more with a thread that does.

    Args:
        num_users: users of the synthetic log; each has some 9 train views.
        seconds: how long each case is measured.
        batch_size: examples a batch.

    Yields:
        Rows of plain values: `bench`, `case`, `implementation`, `examples_per_second`,
        `tokens_per_second` (without padding), `seconds_to_start` (plan, packing and hashes), and
        `ratio`, to the per-element pipeline of the same case, or None.

    Raises:
        RuntimeError: the two pipelines make different arrays of the same view.
    """
    log = synthetic_log(num_users)
    rng = np.random.default_rng(1)
    item_tokens = rng.integers(2, 1026, (_NUM_ITEMS, _NUM_LEVELS), np.int32)
    config = BatchConfig(batch_size, _MAX_ITEMS, num_threads=0, prefetch=0)
    cases = {
        "windows": config,
        "windows_prefetch": dataclasses.replace(config, num_threads=1, prefetch=4),
        "windows_packed": dataclasses.replace(config, pack=True),
        "histories": dataclasses.replace(config, examples="histories"),
        "histories_packed": dataclasses.replace(
            config, examples="histories", pack=True, row_tokens=256
        ),
    }
    with _one_core():
        element_rates = {}
        for case, case_config in cases.items():
            begin = time.perf_counter()
            batches = train_batches(log, item_tokens, case_config, seed=0)
            to_start = time.perf_counter() - begin
            iterator = iter(batches)
            rate = _batches_per_second(iterator, seconds) * batch_size / batches.num_rows
            iterator.close()
            if case in ("windows", "windows_prefetch"):
                _check_same_work(log, item_tokens, batches)
                elements = _per_element(log, item_tokens, case_config, batches.row_tokens)
                element_rates[case] = _batches_per_second(elements, seconds) * batch_size
            row: dict[str, Any] = {
                "benchmark": "loader",
                "case": case,
                "implementation": "minirec",
                "examples_per_second": round(rate * batches.num_examples),
                "tokens_per_second": round(
                    rate * batches.num_rows * batches.row_tokens * batches.efficiency
                ),
                "efficiency": round(batches.efficiency, 4),
                "seconds_to_start": round(to_start, 3),
                "ratio": None,
            }
            if case in element_rates:
                row["ratio"] = round(rate * batches.num_examples / element_rates[case], 1)
                yield {
                    "benchmark": "loader",
                    "case": case,
                    "implementation": "grain_per_element",
                    "examples_per_second": round(element_rates[case]),
                    "ratio": 1.0,
                }
            yield row


def element_arrays(log: SyntheticLog, item_tokens: np.ndarray, row: int, width: int) -> Batch:
    """Returns the arrays [T] of one train view, made the plain way."""
    _, start, stop = log.splits["train"][row]
    items = log.columns["item"][max(start, stop - _MAX_ITEMS) : stop + 1]
    sequence = item_tokens[items].reshape(-1)
    size = len(sequence)

    def padded(values: np.ndarray, dtype: type) -> np.ndarray:
        return np.pad(values.astype(dtype), (0, width - size))

    return {
        "tokens": padded(np.concatenate([[SidVocab.BOS], sequence[:-1]]), np.int32),
        "targets": padded(sequence, np.int32),
        "loss_mask": padded(np.arange(size) >= size - item_tokens.shape[1], np.float32),
        "positions": padded(np.arange(size), np.int32),
        "segment_ids": padded(np.ones(size), np.int32),
    }


def _per_element(
    log: SyntheticLog, item_tokens: np.ndarray, config: BatchConfig, width: int
) -> Iterator[Batch]:
    """Returns the pipeline that most people write first."""
    options = grain.ReadOptions(config.num_threads, config.prefetch * config.batch_size)
    return iter(
        grain.MapDataset.source(range(len(log.splits["train"])))
        .seed(0)
        .shuffle()
        .repeat()
        .map(lambda row: element_arrays(log, item_tokens, row, width))
        .to_iter_dataset(options)
        .batch(config.batch_size)
    )


def _check_same_work(log: SyntheticLog, item_tokens: np.ndarray, batches: TrainBatches) -> None:
    batch = batches.batch_at(0)
    for number, row in enumerate(batch["rows"][:64]):
        expected = element_arrays(log, item_tokens, int(row), batches.row_tokens)
        for key in _KEYS:
            if not np.array_equal(batch[key][number], expected[key]):
                raise RuntimeError(f"{key} of view {row} differs: the comparison means nothing")


def _batches_per_second(batches: Iterator[Batch], seconds: float) -> float:
    next(batches)
    begin, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < seconds:
        next(batches)
        count += 1
    return count / passed


@contextlib.contextmanager
def _one_core() -> Generator[None]:
    """Binds this thread, and those that it starts, to one core where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
