"""How fast the loader is, beside pipelines of Grain and of torch that work element by element."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from launch.bench.loader_peers import (
    KEYS,
    Elements,
    Speed,
    grain_batches,
    has_torch,
    torch_speed,
)
from launch.bench.peer import PYTHON as TORCH_PYTHON
from pipelines.batches.examples import EVENT_FIELDS
from pipelines.batches.row_source import Batch
from pipelines.batches.train_batches import BatchConfig, TrainBatches, train_batches
from pipelines.synthetic import SyntheticLog, synthetic_log

_MAX_ITEMS = 10
_BATCH_SIZE = 512
_TURNS = 5
_GRAIN, _TORCH = "grain_per_element", "torch_dataloader"


def run(
    num_users: int = 110_000,
    seconds: float = 2.0,
    batch_size: int = _BATCH_SIZE,
    torch_python: Path = TORCH_PYTHON,
) -> Iterator[dict[str, Any]]:
    """Measures the loader on one core, and yields a row a case and implementation.

    The peers make the same arrays of the same views, one view at a time: Grain by source, global
    shuffle, map and batch; torch by a `DataLoader` over a map-style data set, in a process of its
    own. All run bound to one core, with nothing made ahead, and once more with a thread that does
    (torch: a worker process).

    Args:
        num_users: users of the synthetic log; each has some 9 train views.
        seconds: how long each case is measured, in five turns, of which the fastest counts.
        batch_size: examples a batch.
        torch_python: of the environment that `make oracles` makes; without it torch has no row.

    Yields:
        Rows of plain values: `benchmark`, `case`, `implementation`, `examples_per_second`,
        `core_share` (how much of the core it had in that turn: well below 1, others used it, and
        the rate says little; None where a torch worker has the other part), and for ours

        - `events_per_second` (without padding), `seconds_to_start` (plan, packing and hashes);
        - `ratio`, to Grain's per-element pipeline of the same case, `torch_ratio`, to the
          DataLoader; None where there is none;
        - `floor_bytes`: what any loader must move for a batch: its five arrays written once, its
          events read once;
        - `floor_microseconds`: a mere copy of a finished batch into arrays that are there already;
          `of_floor`: that over a batch's time.

    Raises:
        RuntimeError: two pipelines make different arrays of the same view.
    """
    log = synthetic_log(num_users)
    config = BatchConfig(batch_size, _MAX_ITEMS, num_threads=0, prefetch=0)
    cases = {
        "windows": config,
        "windows_prefetch": dataclasses.replace(config, num_threads=1, prefetch=4),
        "windows_packed": dataclasses.replace(config, pack=True),
        "histories": dataclasses.replace(config, examples="histories"),
        "histories_packed": dataclasses.replace(
            config, examples="histories", pack=True, row_items=64
        ),
    }
    with _one_core():
        for case, case_config in cases.items():
            begin = time.perf_counter()
            batches = train_batches(log, case_config, seed=0)
            to_start = time.perf_counter() - begin
            iterator = iter(batches)
            speed = _measure(iterator, seconds)
            iterator.close()
            floor = _floor_seconds(batches.batch_at(0))
            peers = {}
            if case in ("windows", "windows_prefetch"):
                peers = _peers(log, batches, seconds, torch_python)
            for name, peer in peers.items():
                yield {
                    "benchmark": "loader",
                    "case": case,
                    "implementation": name,
                    "examples_per_second": round(peer.batches_per_second * batch_size),
                    "core_share": _rounded(peer.core_share),
                }
            # A row of the plan may hold several examples.
            examples = batch_size * batches.num_examples / batches.num_rows
            places = batch_size * batches.row_size
            event_bytes = sum(np.dtype(dtype).itemsize for dtype in EVENT_FIELDS.values())
            yield {
                "benchmark": "loader",
                "case": case,
                "implementation": "minirec",
                "examples_per_second": round(speed.batches_per_second * examples),
                "core_share": _rounded(speed.core_share),
                "events_per_second": round(speed.batches_per_second * places * batches.efficiency),
                "efficiency": round(batches.efficiency, 4),
                "seconds_to_start": round(to_start, 3),
                "ratio": _ratio(speed, peers.get(_GRAIN)),
                "torch_ratio": _ratio(speed, peers.get(_TORCH)),
                "floor_bytes": round(
                    places * (event_bytes + 4 + 4)  # segment, target_weight
                    + places * batches.efficiency * event_bytes
                ),
                "floor_microseconds": round(1e6 * floor, 1),
                "of_floor": round(floor * speed.batches_per_second, 3),
            }


def _peers(
    log: SyntheticLog,
    batches: TrainBatches,
    seconds: float,
    torch_python: Path,
) -> dict[str, Speed]:
    """Returns how fast each peer is, which makes the same arrays as `batches`."""
    config, first = batches.config, batches.batch_at(0)
    elements = Elements(log, config.max_items, batches.row_size)
    elements.check(first, first["rows"][:64])
    by_grain = grain_batches(
        elements, config.batch_size, num_threads=config.num_threads, prefetch=config.prefetch
    )
    speeds = {_GRAIN: _measure(by_grain, seconds)}
    if has_torch(torch_python):
        speeds[_TORCH] = torch_speed(
            torch_python,
            elements,
            config.batch_size,
            num_workers=config.num_threads,
            turns=_TURNS,
            seconds=seconds / _TURNS,
        )
    else:
        print(
            f"loader: no row of torch: {torch_python} (make oracles) or MINIREC_PEERS is missing",
            file=sys.stderr,
        )
    return speeds


def _ratio(speed: Speed, peer: Speed | None) -> float | None:
    return round(speed.batches_per_second / peer.batches_per_second, 1) if peer else None


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 2)


def _measure(batches: Iterator[Batch], seconds: float) -> Speed:
    """Returns the fastest of several turns: others may use the core in the meantime."""
    next(batches)
    turns = []
    for _ in range(_TURNS):
        begin, cpu_begin, count = time.perf_counter(), time.process_time(), 0
        while (passed := time.perf_counter() - begin) < seconds / _TURNS or not count:
            next(batches)
            count += 1
        turns.append(Speed(count / passed, (time.process_time() - cpu_begin) / passed))
    return max(turns)


def _floor_seconds(batch: Batch) -> float:
    """Returns the least time in which the batch's arrays were copied into others."""
    copies = {key: batch[key].copy() for key in KEYS}
    times = []
    for _ in range(200):
        begin = time.perf_counter()
        for key, copy in copies.items():
            np.copyto(copy, batch[key])
        times.append(time.perf_counter() - begin)
    return min(times)


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
