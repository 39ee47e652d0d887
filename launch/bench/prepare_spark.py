"""Time and memory of preparation in memory and on Spark, size by size, on the same log.

Both do the same work and must give the same bytes. What it is for is the size from which on Spark
is needed: the memory of the one grows with the log, that of the other is what it is given; and how
many cores of a cluster it takes to be faster: that is what the seconds of all cores tell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from launch.bench.prepare import EVENTS, write_log
from launch.wiring.child import tied
from pipelines.spark.session import missing

SIZES = (1_000_000, 5_000_000, 10_000_000)
_PARTS = 4  # A part is read by one task.
_SAMPLE_SECONDS = 0.5


def run(
    sizes: Sequence[int] = SIZES,
    folder: str | None = None,
    k_core: int = 5,
    master: str = "local[2]",
) -> Iterator[dict[str, Any]]:
    """Yields a row a size and engine: Parquet in four files, k-core, leave-one-out.

    Args:
        sizes: interactions of the logs.
        folder: where the logs are made and what comes out is kept for the time of the run; None: a
            temporary folder.
        k_core: of the preparation.
        master: Spark's.

    Yields:
        `benchmark`, `case`, `implementation`, `rows`, `seconds` (Spark's start is part of them),
        `cpu_seconds` (of all cores and processes together), `rows_per_second`, `peak_gb` (of all
        processes together, pages that they share counted once), `ratio` (time in memory over time
        on Spark).

    Raises:
        RuntimeError: an engine failed, or the two gave different bytes.
    """
    if problem := missing():
        print(f"prepare_spark: {problem}: no row of it", file=sys.stderr)
        return
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            _write_parts(Path(place), size)
            in_memory = _measure("polars", place, k_core, master)
            yield _row("polars", size, in_memory, None)
            on_spark = _measure("spark", place, k_core, master)
            if on_spark["digest"] != in_memory["digest"]:
                raise RuntimeError(f"{size} rows: Spark and Polars give different bytes")
            ratio = round(in_memory["seconds"] / on_spark["seconds"], 3)
            yield _row(f"spark {master}", size, on_spark, ratio)


def _row(
    implementation: str, size: int, measured: dict[str, Any], ratio: float | None
) -> dict[str, Any]:
    return {
        "benchmark": "prepare_spark",
        "case": f"{size} rows",
        "implementation": implementation,
        "rows": size,
        "seconds": round(measured["seconds"], 2),
        "cpu_seconds": round(measured["cpu_seconds"], 2),
        "rows_per_second": round(size / measured["seconds"]),
        "peak_gb": round(measured["peak_gb"], 2),
        "ratio": ratio,
    }


def _write_parts(place: Path, size: int) -> None:
    whole = place / "log.parquet"
    write_log(whole, size)
    rows = -(-size // _PARTS)
    for number in range(_PARTS):
        some = pl.scan_parquet(whole).slice(number * rows, rows)
        some.sink_parquet(place / f"part-{number}.parquet")
    whole.unlink()


def _measure(engine: str, place: str, k_core: int, master: str) -> dict[str, Any]:
    out = f"{place}/{engine}"
    command = [sys.executable, "-m", __name__, engine, place, out, str(k_core), master]
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(tied(command), stdout=subprocess.PIPE, stderr=stderr, text=True)
        with _watched(process.pid) as most:
            printed, _ = process.communicate()
        if process.returncode:
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip()[-2000:]
            raise RuntimeError(f"{' '.join(command)} failed: {said}")
    return {**json.loads(printed.splitlines()[-1]), **most}


@contextlib.contextmanager
def _watched(process: int) -> Generator[dict[str, float]]:
    """Yields `peak_gb` and `cpu_seconds` of a process and all below it, which grow as it runs."""
    most, is_over = {"peak_gb": 0.0, "cpu_seconds": 0.0}, threading.Event()

    def watch() -> None:
        while not is_over.wait(_SAMPLE_SECONDS):
            family = list(_family_of(process))
            for name, measure in (("peak_gb", _gb_of), ("cpu_seconds", _cpu_seconds_of)):
                most[name] = max(most[name], sum(map(measure, family)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        is_over.set()
        thread.join()


def _family_of(process: int) -> Iterator[int]:
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _family_of(int(child))


def _gb_of(process: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e9
    return 0.0


def _cpu_seconds_of(process: int) -> float:
    """Its own and of those that it has waited for."""
    with contextlib.suppress(OSError):
        # After the name, which may hold anything, the fields from the third on.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _prepare(engine: str, place: str, out: str, k_core: int, master: str) -> dict[str, Any]:
    from pipelines.prepare.ordered_log import order_in_memory
    from pipelines.prepare.prepare import prepare

    source = {
        "name": "parquet",
        "folder": place,
        "interactions": "part-*.parquet",
        "event": "event",
        "events": dict.fromkeys(EVENTS, 1.0),
    }
    begin = time.perf_counter()
    if engine == "spark":
        from pipelines.spark.engine import SparkEngine

        chosen = SparkEngine(master, {"spark.local.dir": place})
    else:
        chosen = order_in_memory
    config = {"source": source, "k_core": k_core, "split": "leave_one_out"}
    prepare(config, out, engine=chosen)
    seconds = time.perf_counter() - begin
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(out).rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(out)} ".encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"seconds": seconds, "digest": digest.hexdigest()}


if __name__ == "__main__":
    name, log_folder, out_folder, core, where = sys.argv[1:]
    print(json.dumps(_prepare(name, log_folder, out_folder, int(core), where)))
