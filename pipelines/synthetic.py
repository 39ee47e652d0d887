"""A prepared data set of random items in memory, for benchmarks and tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

NUM_ITEMS = 12_000
"""About as many as Amazon Beauty has."""


@dataclasses.dataclass(frozen=True)
class SyntheticLog:
    """A prepared data set in memory, of random items: what the loader reads and nothing more."""

    columns: dict[str, np.ndarray]
    offsets: np.ndarray
    train_sequences: np.ndarray
    num_items: int
    splits: dict[str, np.ndarray]
    event_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def train_count(self) -> np.ndarray:
        """int64: training interactions of each item."""
        item = self.columns["item"]
        _, start, stop = self.train_sequences.T
        edges = np.zeros(len(item) + 1, np.int64)
        np.add.at(edges, start, 1)
        np.add.at(edges, stop, -1)
        in_training = np.cumsum(edges[:-1]) > 0
        return np.bincount(item[in_training], minlength=self.num_items)

    def views(self, split: str) -> np.ndarray:
        """Returns the views of a split."""
        return self.splits[split]


def columns_of(items: Int[np.ndarray, " E"]) -> dict[str, np.ndarray]:
    """Returns the columns of events of one type, a second apart."""
    time = np.arange(len(items), dtype=np.int64)
    return {"item": items, "event": np.zeros(len(items), np.int32), "time": time}


def synthetic_log(
    num_users: int, *, num_items: int = NUM_ITEMS, mean_events: int = 12, seed: int = 0
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
    return SyntheticLog(columns_of(items), offsets, sequences, num_items, splits)
