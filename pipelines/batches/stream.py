"""The endless stream of a source's batches, made ahead by threads and processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import grain
import numpy as np

from pipelines.batches.positions import PositionedIterator
from pipelines.batches.row_source import Batch, RowSource
from pipelines.batches.workers import end_with_parent


class AheadConfig(Protocol):
    """How batches are made ahead; none of it changes the stream or its position."""

    @property
    def num_threads(self) -> int:
        """Threads that make batches ahead. 0: batches are made when asked for."""
        ...

    @property
    def prefetch(self) -> int:
        """Batches made ahead."""
        ...

    @property
    def num_workers(self) -> int:
        """Processes that make batches ahead, each with threads of its own; 0: none."""
        ...


class BatchStream(grain.IterDataset):
    """A stream of batches; subclasses say what is in them.

    Its iterators have `__next__`, `get_state` and `set_state`. A state is a small dict that JSON
    can hold; it does not depend on threads, workers or process index, and it can be restored only
    on a stream of the same data, config, seed and number of processes.

    Attributes:
        num_rows: rows of an epoch.
        num_examples: examples of an epoch.
        row_size: places of a row, for tokens or for events.
        stream: what the stream depends on, in words and hashes; part of every state.
    """

    def __init__(self, source: RowSource, ahead: AheadConfig, stream: Mapping[str, Any]):
        super().__init__()
        self._source = source
        self._ahead = ahead
        self.num_rows = source.num_rows
        self.num_examples = source.num_examples
        self.row_size = source.row_size
        self.stream = dict(stream)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._source!r})"

    @property
    def batches_per_epoch(self) -> int:
        """Batches until every row has come at least once."""
        return -(-self.num_rows // self._source.batch_size)

    def __iter__(self) -> grain.DatasetIterator[Batch]:
        """Returns an iterator that stands at the stream's beginning."""
        return PositionedIterator(
            self.batches_from, self.stream, has_workers=self._ahead.num_workers > 0
        )

    def batch_at(self, index: int) -> Batch:
        """Returns batch `index` of the stream, made here and now."""
        return self._source[index]

    def batches_from(self, index: int) -> grain.IterDataset:
        """Returns the stream from batch `index` on, as plain Grain makes it."""
        config = self._ahead
        ahead = config.num_threads > 0 and config.prefetch > 0
        options = grain.ReadOptions(
            num_threads=min(config.num_threads, config.prefetch) if ahead else 0,
            prefetch_buffer_size=config.prefetch if ahead else 0,
        )
        source = dataclasses.replace(self._source, first=index)
        dataset = grain.MapDataset.source(source).to_iter_dataset(options)
        if config.num_workers:
            workers = grain.MultiprocessingOptions(
                num_workers=config.num_workers, per_worker_buffer_size=max(1, config.prefetch)
            )
            dataset = dataset.mp_prefetch(workers, worker_init_fn=end_with_parent)
        return dataset

    def name_examples(self, examples: np.ndarray) -> str:
        """Returns what the examples of a row are, for a message."""
        raise NotImplementedError

    def describe(self, batch: Mapping[str, Any], limit: int = 8) -> str:
        """Returns a batch's place in the data, for a message: its number, epoch, rows, examples.

        Args:
            batch: a batch of this stream; `rows`, `epoch` and `batch_index` are read.
            limit: rows that are named at most.
        """
        rows = np.asarray(batch["rows"])
        epoch = np.unique(np.asarray(batch["epoch"]))
        example, place, _ = self._source.examples_in(rows[:limit].astype(np.int64))
        parts = [
            f"row {row} ({self.name_examples(example[place == number])})"
            for number, row in enumerate(rows[:limit])
        ]
        more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
        return (
            f"batch {int(np.asarray(batch['batch_index'])[0])} of seed {self._source.seed}, "
            f"epoch {'-'.join(str(number) for number in epoch[[0, -1][: len(epoch)]])}: "
            f"{', '.join(parts)}{more}"
        )
