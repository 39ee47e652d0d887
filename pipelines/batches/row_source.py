"""Which rows a batch holds: a Grain data source whose elements are whole batches.

What a row is made of is for the subclass to say. Nothing is kept between two batches: any thread or
process may make any of them.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from typing import Any

import numpy as np

from pipelines.batches.packing import Packing
from pipelines.batches.shuffle import shuffled_rows

Batch = dict[str, np.ndarray]

ENDLESS = 2**62  # batches; Grain wants a length


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RowSource(abc.ABC):
    """A Grain data source whose element `i` is the stream's batch `first + i`.

    Attributes:
        packing: which examples share a row; None: each has its own.
        row_size: places of a row, for tokens or for events.
        batch_size: rows of a batch, over all processes together.
        seed: of the shuffle.
        process_index: which slice of each batch is made.
        process_count: into how many slices.
        first: batch number of element 0.
    """

    packing: Packing | None
    row_size: int
    batch_size: int
    seed: int
    process_index: int
    process_count: int
    first: int = 0

    def __len__(self) -> int:
        return ENDLESS

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_rows={self.num_rows}, batch_size={self.batch_size})"

    @property
    @abc.abstractmethod
    def num_examples(self) -> int:
        """Examples of an epoch."""

    @abc.abstractmethod
    def assemble(self, rows: np.ndarray) -> Batch:
        """Returns the arrays of the plan's rows."""

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return self.num_examples if self.packing is None else self.packing.num_rows

    def __getitem__(self, index: Any) -> Batch:
        """Returns this process's slice of a batch."""
        number = self.first + int(index)
        local = self.batch_size // self.process_count
        position = number * self.batch_size + self.process_index * local + np.arange(local)
        epoch, place = np.divmod(position, self.num_rows)
        rows = shuffled_rows(place, self.num_rows, seed=self.seed, epoch=epoch)
        batch = self.assemble(rows)
        batch["rows"] = rows
        batch["epoch"] = epoch.astype(np.int32)
        batch["batch_index"] = np.full(local, number)
        return batch

    def examples_in(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns, for all examples in the rows: its number, its row's place, its segment."""
        if self.packing is None:
            return rows, np.arange(len(rows)), np.ones(len(rows), np.int64)
        begin = self.packing.offsets[rows]
        count = self.packing.offsets[rows + 1] - begin
        row = np.repeat(np.arange(len(rows)), count)
        within = np.arange(len(row)) - (np.cumsum(count) - count)[row]
        return self.packing.examples[begin[row] + within], row, within + 1


def check_processes(batch_size: int, process_index: int, process_count: int) -> None:
    """Checks that a batch can be sliced over the JAX processes.

    Raises:
        ValueError: the process is none of them, or they do not divide the batch.
    """
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index={process_index}: must lie in [0, process_count={process_count})"
        )
    if batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size}: must be a multiple of process_count={process_count}"
        )


def digest(*arrays: np.ndarray) -> str:
    """Returns a short hash of the arrays' shapes, types and values."""
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
