"""Training batches: an endless, globally shuffled stream whose position is exact.

Batch `i` is a pure function of the data, the config, the seed and `i`; that number is the whole
position of the loader. `pipelines.batches.rows` makes the batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from pipelines.batches.event_weights import EventWeights, event_weights
from pipelines.batches.examples import (
    EVENT_FIELDS,
    Examples,
    PreparedLog,
    check_ranges,
    event_columns,
    history_examples,
    window_examples,
)
from pipelines.batches.packing import pack
from pipelines.batches.row_source import check_processes, digest
from pipelines.batches.rows import BatchSource
from pipelines.batches.stream import BatchStream

_STATE_VERSION = 2


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """How training batches are made.

    Attributes:
        batch_size: rows a batch, over all processes together.
        max_items: history items that a target sees at most, the newest ones.
        examples: "windows" makes one example of each train view, with the loss on its target;
            "histories" one of each training sequence, with the loss on every item but its first,
            or with `first_items` on all (`pipelines.batches.examples.history_examples` tells how
            long ones are cut).
        pack: several examples share a row, told apart by `segment`.
        row_items: P, events a row. None: what the longest example needs, at most `max_items + 1`.
        stride: for "histories", new items a window of a long sequence. None: half a window.
        first_items: for "histories", a sequence's first item is a target too, of an empty history.
        num_threads: threads that make batches ahead. 0: batches are made when asked for.
        prefetch: batches made ahead. Neither this nor the number of threads or workers changes
            the stream or its position.
        num_workers: processes that make batches ahead, each with threads of its own; 0: none.
            Each holds a copy of the data in memory.
    """

    batch_size: int
    max_items: int
    examples: Literal["windows", "histories"] = "windows"
    pack: bool = False
    row_items: int | None = None
    stride: int | None = None
    first_items: bool = False
    num_threads: int = 1
    prefetch: int = 4
    num_workers: int = 0

    def __post_init__(self):
        if self.examples not in ("windows", "histories"):
            raise ValueError(f'examples={self.examples!r}: must be "windows" or "histories"')
        for fields, least in (
            (("batch_size", "max_items"), 1),
            (("num_threads", "prefetch", "num_workers"), 0),
        ):
            for field in fields:
                if (value := getattr(self, field)) < least:
                    raise ValueError(f"{field}={value}: must be at least {least}")
        if self.row_items is not None and self.row_items < 1:
            raise ValueError(f"row_items={self.row_items}: must be at least 1, or None")
        if self.stride is not None and not 1 <= self.stride <= self.max_items:
            raise ValueError(
                f"stride={self.stride}: must lie between 1 and max_items={self.max_items}"
            )


def train_batches(
    prepared: PreparedLog,
    config: BatchConfig,
    *,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainBatches:
    """Returns the endless stream of training batches.

    Position `p` of the stream is row `shuffle(seed, epoch)[p % num_rows]` of epoch
    `p // num_rows`, so that each row comes exactly once an epoch; batch `i` holds the positions
    `[i * batch_size, (i + 1) * batch_size)` and may reach into the next epoch. A process takes an
    equal, contiguous slice of each batch.

    A batch is a dict of NumPy arrays, with B this process's rows of P places, one an event:

    - `item`, `event` int32 and `time` int64 [B, P], the log's, an example's oldest event first;
      -1 fills up the row.
    - `segment` int32 [B, P]: the example of each event, from 1 in each row; 0 fills up the row.
    - `target_weight` float32 [B, P]: what the event counts as a target, to be told from those of
      its example that stand before it: the weight of its type (`prepared.event_weights`, 1 unless
      the log says otherwise), 0 where it is context only.
    - `rows` int64 [B], the plan's row; `epoch` int32 [B]; `batch_index` int64 [B], the same
      number throughout. They name the batch's place in the data: see `TrainBatches.describe`.

    Args:
        prepared: the prepared data set; only its train split is read.
        config: how batches are made.
        seed: shuffle and packing.
        process_index: this JAX process.
        process_count: number of JAX processes.

    Raises:
        ValueError: arguments that do not fit the data or one another.
    """
    check_processes(config.batch_size, process_index, process_count)
    columns = event_columns(prepared)
    weights = event_weights(prepared)
    examples = _make_examples(prepared, len(columns["item"]), config, weights)
    longest = int(examples.size.argmax())
    row_items = config.row_items or int(examples.size[longest])
    if examples.size[longest] > row_items:
        event = int(examples.start[longest])
        raise ValueError(
            f"row_items={row_items}: the longest example (user "
            f"{_user_of(prepared.offsets, event)}, events from {event}) has "
            f"{examples.size[longest]} items; raise row_items or lower "
            f"max_items={config.max_items}"
        )
    source = BatchSource(
        columns=columns,
        examples=examples,
        packing=pack(examples.size, row_items, seed=seed) if config.pack else None,
        row_size=row_items,
        batch_size=config.batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        weights=weights,
    )
    return TrainBatches(source, config, np.asarray(prepared.offsets))


def _make_examples(
    prepared: PreparedLog, num_events: int, config: BatchConfig, weights: EventWeights | None
) -> Examples:
    """Returns the training examples, checked."""
    if config.examples == "windows":
        name, ranges = "splits/train", prepared.views("train")
        # A view's target is the event at `stop`, which must exist too.
        check_ranges(name, ranges, num_events - 1)
        examples = window_examples(ranges, config.max_items)
    else:
        name, ranges = "splits/train_sequences", prepared.train_sequences
        check_ranges(name, ranges, num_events)
        examples = history_examples(ranges, config.max_items, config.stride, config.first_items)
    reasons, needs = "without a history", "one item" if config.first_items else "two items"
    if weights is not None:
        examples = weights.worth_learning(examples)
        reasons += " or a target of a weight above 0"
        needs += f", the last of a type that counts ({weights})"
    if not len(examples):
        raise ValueError(
            f"{name}: no training example in {len(ranges)} rows "
            f"({examples.left_out} {reasons}): needs at least one with {needs}"
        )
    return examples


def _user_of(offsets: np.ndarray, event: int) -> int:
    """Returns whose event it is."""
    return int(np.searchsorted(offsets, event, side="right")) - 1


class TrainBatches(BatchStream):
    """The stream of training batches, as `train_batches` makes it.

    Attributes:
        config: the config it was made with.
        num_targets: target items of an epoch, those whose event has a weight above 0.
        left_out: views, sequences or windows of which no example was made: without a history, or
            without a target whose event has a weight above 0.
        efficiency: share of an epoch's places that hold an event.
    """

    def __init__(self, source: BatchSource, config: BatchConfig, offsets: np.ndarray):
        examples, weights = source.examples, source.weights
        stream: dict[str, Any] = {
            "version": _STATE_VERSION,
            "seed": source.seed,
            "process_count": source.process_count,
            "batch_size": source.batch_size,
            "examples": config.examples,
            "max_items": config.max_items,
            "stride": config.stride or 0,
            "first_items": config.first_items,
            "pack": config.pack,
            "row_items": source.row_size,
        }
        if weights is not None:
            stream |= {"event_weights": str(weights), "events": digest(weights.events)}
        # Last: it changes with the fields above, which say more.
        columns = [source.columns[name] for name in EVENT_FIELDS]
        stream["data"] = digest(*columns, examples.start, examples.size, examples.num_targets)
        super().__init__(source, config, stream)
        self._examples = examples
        self._offsets = offsets
        self.config = config
        targets = examples.num_targets if weights is None else weights.num_targets(examples)
        self.num_targets = int(targets.sum())
        self.left_out = examples.left_out
        self.efficiency = int(examples.size.sum()) / (self.num_rows * self.row_size)

    def name_examples(self, examples: np.ndarray) -> str:
        """Returns whose they are."""
        events = self._examples.start[examples]
        return "user " + ", ".join(str(_user_of(self._offsets, int(event))) for event in events)
