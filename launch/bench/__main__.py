"""Benchmarks, one JSON line each: `python -m launch.bench [--only=beam_step,trie,…]`.

Every line sets a part of the project beside a named alternative in the same run on the same
machine, with the floor (bytes or operations) where one can be stated. STATIC's steps, decode and
index are timed beside ours where the environment's STATIC_PATH names a checkout of it. On a TPU or
GPU the same command times the real thing.

`--plot=FOLDER` sweeps catalogue, vocabulary, beams and children instead, and draws the beam step's
cost against each of them; with `--only=scale` it draws how the chain's cost grows, with
`--only=serving` how latency does with the load.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

import kernels.bench.beam_step
import kernels.bench.decode
import kernels.bench.head_beam_step
import kernels.bench.sweep
import kernels.bench.trie
from launch.bench import (
    content,
    evaluate,
    event_store,
    feed,
    generate,
    generate_text,
    index,
    loader,
    plot,
    prepare,
    prepare_spark,
    ranker,
    rq_kmeans,
    scale,
    serving,
    sft_training,
    slice_memory,
    tasks,
    text_training,
    training,
)
from launch.wiring import program

_ONLY = flags.DEFINE_list("only", [], "Benchmarks to run; default all.")
_NUM_SIDS = flags.DEFINE_integer(
    "num_sids", 1_000_000, "SIDs of the catalogue of trie and decode.", lower_bound=1
)
_LARGE_SIDS = flags.DEFINE_integer(
    "large_sids", 20_000_000, "SIDs of the large catalogue of trie; 0: none.", lower_bound=0
)
_NUM_ROWS = flags.DEFINE_integer(
    "num_rows", 10_000_000, "Rows of the CSV log that prepare reads.", lower_bound=1
)
_LARGE_ROWS = flags.DEFINE_integer(
    "large_rows", 100_000_000, "Rows of the Parquet log that prepare reads; 0: none.", lower_bound=0
)
_SPARK_ROWS = flags.DEFINE_multi_integer(
    "spark_rows",
    list(prepare_spark.SIZES),
    "Rows of a log that prepare_spark reads in memory and on Spark; may be given several times.",
    lower_bound=1,
)
_NUM_USERS = flags.DEFINE_integer(
    "num_users", 22_000, "Users that evaluate searches for.", lower_bound=1
)
_GENERATE_USERS = flags.DEFINE_integer(
    "generate_users",
    32,
    "Users that generate searches for; transformers gets a quarter of them.",
    lower_bound=4,
)
_NUM_TITLES = flags.DEFINE_integer(
    "num_titles", 1_000_000, "Items whose neighbours content finds.", lower_bound=100
)
_SCALE_ITEMS = flags.DEFINE_multi_integer(
    "scale_items",
    list(scale.SIZES),
    "Items of a catalogue that scale goes through the chain with; may be given several times.",
    lower_bound=100,
)
_LIST_ROWS = flags.DEFINE_multi_integer(
    "list_rows",
    list(tasks.SIZES),
    "Rows of the lists that tasks reads; may be given several times.",
    lower_bound=1000,
)
_BENCH_DIR = flags.DEFINE_string(
    "bench_dir", None, "Folder that keeps generated logs from run to run; default: a temporary one."
)
_PLOT = flags.DEFINE_string(
    "plot", None, "Folder: draw the beam step's cost, or what scale or serving finds."
)
_PLOT_MAX_SIDS = flags.DEFINE_integer(
    "plot_max_sids",
    1_000_000,
    "Largest catalogue that --plot draws; 20000000 takes minutes and gigabytes.",
    lower_bound=kernels.bench.sweep.NUM_SIDS[0],
)


def _trie() -> Iterator[dict]:
    """Yields rows of a deep catalogue, of one with three wide levels, and of a large one."""
    yield from kernels.bench.trie.run(num_sids=_NUM_SIDS.value)
    yield from kernels.bench.trie.run(num_sids=_NUM_SIDS.value, vocab=8192, levels=3)
    if _LARGE_SIDS.value:
        yield from kernels.bench.trie.run(num_sids=_LARGE_SIDS.value, repeats=1)


BENCHMARKS: dict[str, Callable[[], Iterator[dict]]] = {
    "trie": _trie,
    "beam_step": kernels.bench.beam_step.run,
    "decode": lambda: kernels.bench.decode.run(num_sids=_NUM_SIDS.value),
    "head_beam_step": kernels.bench.head_beam_step.run,
    "loader": loader.run,
    "rq_kmeans": rq_kmeans.run,
    "content": lambda: content.run(_NUM_TITLES.value),
    "prepare": lambda: prepare.run(_NUM_ROWS.value, _LARGE_ROWS.value, _BENCH_DIR.value),
    "prepare_spark": lambda: prepare_spark.run(_SPARK_ROWS.value, _BENCH_DIR.value),
    "evaluate": lambda: evaluate.run(_NUM_USERS.value),
    "generate": lambda: itertools.chain.from_iterable(
        generate.run(_GENERATE_USERS.value, peer_users=_GENERATE_USERS.value // 4, setting=setting)
        for setting in generate.SETTINGS
    ),
    "training": training.run,
    "sft_training": sft_training.run,
    "slice_memory": slice_memory.run,
    "scale": lambda: scale.run(_SCALE_ITEMS.value, folder=_BENCH_DIR.value),
    "serving": lambda: serving.run(_BENCH_DIR.value),
    "index": index.run,
    "tasks": lambda: tasks.run(tuple(_LIST_ROWS.value)),
    "event_store": event_store.run,
    "text_training": text_training.run,
    "generate_text": generate_text.run,
    "ranker": ranker.run,
    "feed": feed.run,
}


def main() -> None:
    """Runs the benchmarks that are asked for, or the sweep that is drawn.

    Raises:
        UsageError: an unknown name.
    """
    unknown = sorted(set(_ONLY.value) - set(BENCHMARKS))
    if unknown:
        raise program.UsageError(f"--only={','.join(unknown)}: known are {', '.join(BENCHMARKS)}")
    if _PLOT.value and _ONLY.value not in ([], ["beam_step"], ["scale"], ["serving"]):
        raise program.UsageError(
            "--plot draws beam_step, scale or serving; --only may name nothing else beside it"
        )
    if program.asked_for_config():
        print("\n".join(_ONLY.value or BENCHMARKS))
        return
    if _PLOT.value:
        if _ONLY.value == ["scale"]:
            files = scale.draw(list(_printed(BENCHMARKS["scale"]())), Path(_PLOT.value))
        elif _ONLY.value == ["serving"]:
            files = serving.draw(list(_printed(BENCHMARKS["serving"]())), Path(_PLOT.value))
        else:
            rows = list(_printed(kernels.bench.sweep.run(_PLOT_MAX_SIDS.value)))
            files = plot.draw(rows, Path(_PLOT.value))
        for file in files:
            print(file, file=sys.stderr)
        return
    for name in _ONLY.value or BENCHMARKS:
        for _ in _printed(BENCHMARKS[name]()):
            pass


def _printed(rows: Iterator[dict]) -> Iterator[dict]:
    """Yields the rows, each printed as soon as it is there."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    for row in rows:
        print(json.dumps(row | {"machine": machine}), flush=True)
        yield row


if __name__ == "__main__":
    program.start(main, sys.argv)
