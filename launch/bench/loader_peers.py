"""What the loader is measured beside: pipelines of single examples, of Grain and of torch.

Both are written as plainly and as fast as such a pipeline is: an example's arrays are made once and
filled in place.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np
from jaxtyping import Int

from launch.bench import peer
from launch.wiring.child import tied
from minirec import files
from pipelines.batches.examples import EVENT_FIELDS, NOTHING
from pipelines.batches.row_source import Batch

_TORCH_PROGRAM = "torch_loader.py"
KEYS = (*EVENT_FIELDS, "segment", "target_weight")


class Speed(NamedTuple):
    """How fast batches were made.

    Attributes:
        batches_per_second: by the clock on the wall.
        core_share: processor time over time, 1 where a core is at work; None: not known.
    """

    batches_per_second: float
    core_share: float | None


class Log(Protocol):
    """What the peers read of a log: all events, and train views (user, start, stop)."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Event columns, `EVENT_FIELDS`, each [E]."""
        ...

    def views(self, split: str) -> np.ndarray:
        """int64 [n, 3]."""
        ...


class Elements:
    """Single examples of a log, made the plain way."""

    def __init__(self, log: Log, max_items: int, width: int) -> None:
        """Takes the arrays.

        Args:
            log: events and train views.
            max_items: history items of an example at most.
            width: P, events of a row.
        """
        self.columns = {name: np.asarray(log.columns[name]) for name in EVENT_FIELDS}
        self.views, self.max_items, self.width = log.views("train"), max_items, width

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, row: Any) -> Batch:
        """Returns the arrays [P] of one train view."""
        _, start, stop = self.views[row]
        events = slice(max(start, stop - self.max_items), stop + 1)
        size = events.stop - events.start
        example: Batch = {}
        for name, dtype in EVENT_FIELDS.items():
            example[name] = np.full(self.width, NOTHING, dtype)
            example[name][:size] = self.columns[name][events]
        example["segment"] = np.zeros(self.width, np.int32)
        example["segment"][:size] = 1
        example["target_weight"] = np.zeros(self.width, np.float32)
        example["target_weight"][size - 1] = 1
        return example

    def check(self, batch: Mapping[str, np.ndarray], rows: Int[np.ndarray, " n"]) -> None:
        """Checks that a batch begins with some views' arrays.

        Raises:
            RuntimeError: one differs.
        """
        for number, row in enumerate(rows):
            expected = self[int(row)]
            for key in KEYS:
                if not np.array_equal(batch[key][number], expected[key]):
                    raise RuntimeError(f"{key} of view {row} differs: the comparison means nothing")


def grain_batches(
    elements: Elements, batch_size: int, *, num_threads: int, prefetch: int
) -> Iterator[Batch]:
    """Returns batches of a Grain pipeline of single examples: shuffle, map, batch."""
    options = grain.ReadOptions(num_threads, prefetch * batch_size)
    return iter(
        grain.MapDataset.source(range(len(elements)))
        .seed(0)
        .shuffle()
        .repeat()
        .map(elements.__getitem__)
        .to_iter_dataset(options)
        .batch(batch_size)
    )


def torch_speed(
    python: Path,
    elements: Elements,
    batch_size: int,
    *,
    num_workers: int,
    turns: int,
    seconds: float,
) -> Speed:
    """Returns how fast torch's DataLoader makes batches, in a process of its own.

    Args:
        python: of an environment that holds torch.
        elements: the examples.
        batch_size: examples a batch.
        num_workers: the DataLoader's; 0 makes batches when they are asked for.
        turns: how often it is measured; the fastest turn counts.
        seconds: how long a turn takes.

    Raises:
        RuntimeError: it failed, or its examples are others.
    """
    config = {
        "batch_size": batch_size,
        "max_items": elements.max_items,
        "width": elements.width,
        "nothing": NOTHING,
        "num_workers": num_workers,
        "turns": turns,
        "seconds": seconds,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for name, array in (elements.columns | {"views": elements.views}).items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        (folder / "config.json").write_text(json.dumps(config))
        command = [str(python), "-I", str(peer.program(_TORCH_PROGRAM)), name]
        done = subprocess.run(tied(command), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
        first = files.read_npz(folder / "check.npz")
        elements.check(first, np.arange(len(first["item"])))
    return Speed(**json.loads(done.stdout.splitlines()[-1]))


def has_torch(python: Path) -> bool:
    """Returns whether torch's part can run: its environment and its program are there."""
    return python.is_file() and peer.program(_TORCH_PROGRAM) is not None
