"""How each step of the chain grows with the catalogue: prepare, make_sids, train, search, rank.

A log with titles is made for each size, fifteen events an item and ten a user, and goes through the
programs that anybody runs, each in a process of its own, which says how much memory it took. As a
program of its own, this module runs one of them, or times the ranking, and writes that down.
"""

from __future__ import annotations

import contextlib
import functools
import json
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from launch.bench.content import titles
from launch.wiring.child import module_command, tied
from minirec.files import atomic_path
from minirec.training.metrics_log import read_metrics

SIZES = (10_000, 100_000, 1_000_000)
COSTS = ("prepare_s", "make_sids_s", "train_step_ms", "search_s", "ranking_s")
"""What a row tells of each step that grows."""

_EVENTS_AN_ITEM, _EVENTS_A_USER = 15, 10
_STEPS, _COMPILED_BY = 40, 20
_CONFIG = "own_log:parquet"
_SELF = "launch.bench.scale"


def run(
    sizes: Sequence[int] = SIZES, num_users: int = 1_000, folder: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yields a row a size, with what it costs and how that compares with the first size.

    `prepare_s` and `make_sids_s` are of whole programs; `train_step_ms` is the mean of the last
    steps of a run, loader and log included; `search_s` and `ranking_s` are what a beam search and a
    ranking of all items take for `num_users` users, compiled before. Beside the seconds stand the
    gigabytes that the programs held at most.

    Args:
        sizes: of catalogues, ascending.
        num_users: users that are searched for and ranked for.
        folder: where logs and runs are made, and stay; None: in a temporary one.

    Raises:
        RuntimeError: a program failed.
    """
    first: dict[str, float] = {}
    for size in sizes:
        with contextlib.ExitStack() as stack:
            made = folder or stack.enter_context(tempfile.TemporaryDirectory())
            row = _measure(Path(made) / f"scale_{size}", size, num_users)
        first = first or row
        growth = {name: round(row[name] / first[name], 2) for name in COSTS}
        yield {"benchmark": "scale", "num_items": size, **row, "growth": growth}


def write_log(folder: Path, num_items: int, seed: int = 0) -> int:
    """Writes events.parquet and items.parquet and returns the number of events.

    Items are as popular as Zipf's law makes them, and titled as in `launch.bench.content`.

    Args:
        folder: made where it does not exist.
        num_items: N; every item has two events at least.
        seed: everything is drawn from it.
    """
    rng = np.random.default_rng(seed)
    num_events = _EVENTS_AN_ITEM * num_items
    share = 1 / (np.arange(num_items) + 10.0)
    drawn = rng.choice(num_items, num_events - 2 * num_items, p=share / share.sum())
    item = np.concatenate([np.repeat(np.arange(num_items), 2), drawn])
    rng.shuffle(item)
    user = rng.integers(0, max(1, num_events // _EVENTS_A_USER), num_events)
    seconds = np.sort(rng.integers(1_500_000_000, 1_700_000_000, num_events))
    folder.mkdir(parents=True, exist_ok=True)
    events = pl.DataFrame({"user": user, "item": item, "time": seconds})
    items = pl.DataFrame({"item": np.arange(num_items), "title": titles(num_items, seed)})
    for name, frame in (("events", events), ("items", items)):
        with atomic_path(folder / f"{name}.parquet") as path:
            frame.write_parquet(path)
    return num_events


def draw(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draws how each step's cost grows into `scale.svg` and `scale.png`, and returns these."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes = [row["num_items"] for row in rows]
    for name in COSTS:
        axes.plot(sizes, [row["growth"][name] for row in rows], marker=".", label=name)
    axes.plot(sizes, [size / sizes[0] for size in sizes], "k:", label="as the catalogue")
    axes.set(xscale="log", yscale="log", xlabel="Items", ylabel=f"Cost, of that at {sizes[0]:,}")
    axes.grid(alpha=0.3)
    axes.legend()
    files = [folder / "scale.svg", folder / "scale.png"]
    for file in files:
        with atomic_path(file) as temporary:
            figure.savefig(temporary, dpi=150)
    return files


def _measure(place: Path, num_items: int, num_users: int) -> dict[str, Any]:
    num_events = write_log(place, num_items)
    source = {
        "folder": place,
        "interactions": "events.parquet",
        "catalogue": "items.parquet",
        "title": "title",
        "text": "title",
    }
    settings = {
        "train.num_epochs": 0,
        "train.num_steps": _STEPS,
        "train.eval_every": 0,
        "train.checkpoint_every": 0,
        "train.log_every": _COMPILED_BY // 2,
        "data.k_core": "3,0",
        **{f"data.source.{name}": value for name, value in source.items()},
    }
    flags = [f"--config={_CONFIG}", f"--workdir={place / 'work'}", "--overwrite"]
    flags += [f"--config.{name}={value}" for name, value in settings.items()]
    row: dict[str, Any] = {"events": num_events}
    for step in ("prepare", "make_sids", "train"):
        begin = time.perf_counter()
        row[f"{step}_gb"] = _child(place, f"launch.{step}", *flags)["gigabytes"]
        row[f"{step}_s"] = round(time.perf_counter() - begin, 1)
    (run_folder,) = (place / "work" / "runs").iterdir()
    seconds = {
        line["step"]: line["seconds"]
        for line in read_metrics(run_folder)
        if line["kind"] == "train"
    }
    step_seconds = (seconds[_STEPS] - seconds[_COMPILED_BY]) / (_STEPS - _COMPILED_BY)
    row["train_step_ms"] = round(1000 * step_seconds)
    return row | _child(place, _SELF, str(num_users), *flags)


def _child(place: Path, module: str, *arguments: str) -> dict[str, Any]:
    """Returns what a program, run by this one, has written down."""
    told = place / "told.json"
    command = module_command(_SELF, str(told), module, *arguments)
    done = subprocess.run(tied(command), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(told.read_text())


def _rankings() -> dict[str, Any]:
    """Returns how long search and ranking take, for the users and the run of the arguments."""
    from launch.wiring import program
    from launch.wiring.experiment import experiment_of
    from minirec.decoding.ranking import rank_users, rank_users_items

    told: dict[str, Any] = {}
    num_users = int(sys.argv.pop(1))

    def measure(job: program.Job) -> None:
        run = experiment_of(job.config).load(job)
        ranker = run.ranker()
        batches = run.split_batches("test", num_users)
        told["users"] = min(num_users, len(run.catalogue.prepared.views("test")))
        if ranker.item_ranker is None:
            raise program.UsageError(f"--config={_CONFIG}: has no item table to rank by")
        given = {"trie": ranker.trie, "exclude_seen": True}
        asked = {
            "search_s": functools.partial(
                rank_users, ranker.model, batches, ranker.searcher, **given
            ),
            "ranking_s": functools.partial(
                rank_users_items, ranker.model, batches, ranker.item_ranker, **given
            ),
        }
        for name, rank in asked.items():
            for _ in range(2):  # The first compiles.
                begin = time.perf_counter()
                rank()
                told[name] = round(time.perf_counter() - begin, 3)

    try:
        program.run(measure)
    except SystemExit as ended:
        if ended.code:
            raise
    return told


def main() -> None:
    """Runs the module of the arguments and writes down what it held at most."""
    from launch.bench.prepare import peak_gb

    told_path, module = sys.argv[1:3]
    del sys.argv[1:3]
    told: dict[str, Any] = {}
    if module == _SELF:
        told = _rankings()
        told["ranking_gb"] = round(peak_gb(), 2)
    else:
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if ended.code:
                raise
        told["gigabytes"] = round(peak_gb(), 2)
    Path(told_path).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
