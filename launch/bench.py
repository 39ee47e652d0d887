"""Benchmarks, one JSON line each: `python -m launch.bench [--only=beam_step,trie,loader]`.

Every line sets a part of the project beside a named alternative in the same run on the same
machine, with the floor (bytes or operations) where one can be stated.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator

from absl import flags

import kernels.bench.beam_step
import kernels.bench.trie
import pipelines.loader_bench
from launch import program

BENCHMARKS: dict[str, Callable[[], Iterator[dict]]] = {
    "trie": kernels.bench.trie.run,
    "beam_step": kernels.bench.beam_step.run,
    "loader": pipelines.loader_bench.run,
}

_ONLY = flags.DEFINE_list("only", [], "Benchmarks to run; default all.")


def main() -> None:
    """Runs the benchmarks that are asked for.

    Raises:
        UsageError: an unknown name.
    """
    unknown = sorted(set(_ONLY.value) - set(BENCHMARKS))
    if unknown:
        raise program.UsageError(f"--only={','.join(unknown)}: known are {', '.join(BENCHMARKS)}")
    if program.asked_for_config():
        print("\n".join(_ONLY.value or BENCHMARKS))
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    for name in _ONLY.value or BENCHMARKS:
        for row in BENCHMARKS[name]():
            print(json.dumps(row | {"machine": machine}), flush=True)


if __name__ == "__main__":
    program.start(main, sys.argv)
