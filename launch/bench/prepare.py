"""How fast a log is prepared, and in how much memory, beside pandas doing the same steps.

Each program runs in a process of its own, so that its peak memory is its own. The floor is what no
program can leave out: reading the file's bytes and hashing them, moving 16 bytes an interaction
from the order of the log to that of the users, and writing them; it is measured in the same run by
doing just that. What a program does beside it is telling a file's fields apart, turning ids into
numbers, counting for the k-core and finding the order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from launch.wiring.child import tied
from pipelines.prepared import Prepared

EVENTS = ("view", "cart", "buy")
_CHUNK = 1_000_000
_BYTES_A_ROW = 16  # item int32, time int64, event int32


def write_log(path: Path, num_rows: int, *, seed: int = 0) -> None:
    """Writes a log in order of time, as a shop's server would: CSV with text, Parquet with numbers.

    A tenth as many users as rows and a two-hundredth as many items, both with a long tail.

    Args:
        path: ends in `.csv` or `.parquet`.
        num_rows: interactions.
        seed: everything is drawn from it.
    """
    random = np.random.default_rng(seed)
    num_users, num_items = max(num_rows // 10, 1), max(num_rows // 200, 1)
    start, span = 1_500_000_000, 200_000_000

    def chunk(first: int) -> pl.DataFrame:
        size = min(_CHUNK, num_rows - first)
        low, high = (start + span * place // num_rows for place in (first, first + size))
        return pl.DataFrame(
            {
                "user": _long_tail(random, num_users, size, 0.5),
                "item": _long_tail(random, num_items, size, 0.8),
                "time": np.sort(random.integers(low, max(high, low + 1), size)),
                "event": random.choice(len(EVENTS), size, p=(0.9, 0.07, 0.03)),
            }
        ).with_columns(
            pl.col("event").replace_strict(dict(enumerate(EVENTS)), return_dtype=pl.String)
        )

    firsts = range(0, num_rows, _CHUNK)
    if path.suffix == ".csv":
        with path.open("wb") as file:
            for first in firsts:
                text = chunk(first).with_columns(
                    pl.format("u{}", "user").alias("user"),
                    pl.format("item_{}", "item").alias("item"),
                )
                text.write_csv(file, include_header=first == 0)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for first in firsts:
            chunk(first).write_parquet(Path(folder) / f"{first:012}.parquet")
        pl.scan_parquet(f"{folder}/*.parquet").sink_parquet(path, row_group_size=_CHUNK)


def run(
    num_rows: int = 10_000_000,
    large_rows: int = 100_000_000,
    folder: str | None = None,
    k_core: int = 5,
) -> Iterator[dict[str, Any]]:
    """Yields a row a program: CSV by this project and by pandas, then much Parquet by this project.

    Args:
        num_rows: interactions of the CSV log.
        large_rows: interactions of the Parquet log; 0: none.
        folder: where the logs are kept from run to run (they are made anew where they are not
            there); None: they are made in a temporary folder.
        k_core: of the preparation.

    Yields:
        `benchmark`, `case`, `implementation`, `rows`, `seconds`, `rows_per_second`, `peak_gb`,
        `floor_seconds`, `of_floor` (floor over time), `ratio` (pandas' time over ours).

    Raises:
        RuntimeError: a program failed, or pandas' result differs from ours.
    """
    with _folder(folder) as place:
        log = _log(place, num_rows, ".csv")
        floor = _floor_seconds(log, num_rows, place)
        ours = _measure("ours", log, place, k_core)
        row = _row("csv", "minirec", num_rows, ours, floor)
        if _has_pandas():
            theirs = _measure("pandas", log, place, k_core)
            if theirs["digest"] != ours["digest"]:
                raise RuntimeError(f"pandas prepares {theirs['digest']}, this project {ours}")
            row["ratio"] = round(theirs["seconds"] / ours["seconds"], 2)
            yield _row("csv", "pandas", num_rows, theirs, floor)
        else:
            print("prepare: pandas is not installed (extra `bench`): no row of it", file=sys.stderr)
        yield row
        if large_rows:
            log = _log(place, large_rows, ".parquet")
            floor = _floor_seconds(log, large_rows, place)
            ours = _measure("ours", log, place, k_core)
            yield _row("parquet", "minirec", large_rows, ours, floor)


def _row(
    case: str, implementation: str, num_rows: int, measured: dict[str, Any], floor: float
) -> dict[str, Any]:
    seconds = measured["seconds"]
    return {
        "benchmark": "prepare",
        "case": case,
        "implementation": implementation,
        "rows": num_rows,
        "rows_left": measured["rows"],
        "seconds": round(seconds, 2),
        "rows_per_second": round(num_rows / seconds),
        "peak_gb": round(measured["peak_gb"], 2),
        "floor_seconds": round(floor, 2),
        "of_floor": round(floor / seconds, 3),
        "ratio": 1.0 if implementation == "pandas" else None,
    }


def _measure(program: str, log: Path, place: Path, k_core: int) -> dict[str, Any]:
    """Returns what a program measured of itself in a process of its own."""
    with tempfile.TemporaryDirectory(dir=place) as out:
        command = [
            sys.executable,
            "-m",
            __name__,
            program,
            str(log),
            f"{out}/prepared",
            str(k_core),
        ]
        done = subprocess.run(tied(command), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _ours(log: Path, out: Path, k_core: int) -> dict[str, Any]:
    from pipelines.prepare.prepare import prepare

    source: dict[str, Any] = {
        "name": log.suffix[1:],
        "folder": str(log.parent),
        "interactions": log.name,
        "event": "event",
        "events": dict.fromkeys(EVENTS, 1.0),
    }
    begin = time.perf_counter()
    prepare({"source": source, "k_core": k_core, "split": "leave_one_out"}, out)
    seconds = time.perf_counter() - begin
    peak = peak_gb()
    prepared = Prepared.load(out)
    return {
        "seconds": seconds,
        "peak_gb": peak,
        "rows": len(prepared.columns["item"]),
        "digest": _digest(
            prepared.columns["item"],
            prepared.columns["time"],
            prepared.columns["event"],
            prepared.offsets,
            prepared.views("valid")[:, 2],
            prepared.views("test")[:, 2],
            ids=(prepared.items["raw_item_id"], prepared.users["raw_user_id"]),
        ),
    }


def _pandas(log: Path, out: Path, k_core: int) -> dict[str, Any]:
    """The same steps as most people write them, result for result."""
    import pandas as pd  # type: ignore[import-not-found]

    begin = time.perf_counter()
    with log.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    frame = pd.read_csv(log)
    frame["event"] = frame["event"].map({name: place for place, name in enumerate(EVENTS)})
    while k_core > 1:
        size = len(frame)
        for column in ("user", "item"):
            count = frame[column].map(frame[column].value_counts())
            frame = frame[count >= k_core]
        if len(frame) == size:
            break
    # The two counts are taken one after the other here, which ends at the same core.
    frame["user_code"], users = pd.factorize(frame["user"])
    frame["item_code"], items = pd.factorize(frame["item"], sort=True)
    frame = frame.sort_values(["user_code", "time"], kind="stable")
    length = frame.groupby("user_code", sort=True).size().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(length)])
    held_out = np.where(length >= 3, 1, 0)
    ends = offsets[1:][held_out == 1]
    starts = offsets[:-1][held_out == 1]
    user = np.flatnonzero(held_out)
    views = {
        "valid": np.stack([user, starts, ends - 2], axis=1),
        "test": np.stack([user, starts, ends - 1], axis=1),
    }
    out.mkdir()
    columns = {
        "item": frame["item_code"].to_numpy().astype(np.int32),
        "time": frame["time"].to_numpy().astype(np.int64),
        "event": frame["event"].to_numpy().astype(np.int32),
    }
    for name, array in {**columns, "offsets": offsets, **views}.items():
        np.save(out / f"{name}.npy", array)
    item_ids, user_ids = (pl.Series(np.asarray(names, str).tolist()) for names in (items, users))
    pl.DataFrame({"raw_item_id": item_ids}).write_parquet(out / "items.parquet")
    pl.DataFrame({"raw_user_id": user_ids}).write_parquet(out / "users.parquet")
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "peak_gb": peak_gb(),
        "rows": len(frame),
        "digest": _digest(
            *columns.values(),
            offsets.astype(np.int64),
            views["valid"][:, 2],
            views["test"][:, 2],
            ids=(item_ids, user_ids),
        ),
    }


def _floor_seconds(log: Path, num_rows: int, place: Path) -> float:
    """Seconds to read and hash the log's bytes, to move so many records and to write them."""
    records = np.ones((num_rows, _BYTES_A_ROW // 8), np.int64)
    # Where a chunk of the ordered log lay: anywhere, for users come back after days.
    order = np.random.default_rng(0).integers(0, num_rows, min(num_rows, _CHUNK))
    begin = time.perf_counter()
    with log.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    with tempfile.NamedTemporaryFile(dir=place) as file:
        for first in range(0, num_rows, _CHUNK):
            file.write(records[order[: num_rows - first]])
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - begin


def _log(place: Path, num_rows: int, suffix: str) -> Path:
    log = place / f"prepare_bench_{num_rows}{suffix}"
    if not log.is_file():
        partial = log.with_name(f"partial_{log.name}")
        write_log(partial, num_rows)
        partial.rename(log)
    return log


@contextlib.contextmanager
def _folder(folder: str | None) -> Generator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)


def _long_tail(random: np.random.Generator, num: int, size: int, exponent: float) -> np.ndarray:
    """Draws from 0 … num - 1, the chance of `n` going down as `n` to the power of -exponent."""
    power = 1 - exponent
    draw = random.random(size) * ((num + 1.0) ** power - 1) + 1
    return np.minimum(draw ** (1 / power) - 1, num - 1).astype(np.int64)


def peak_gb() -> float:
    """The most memory that this process has held, in 10^9 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held when it forked.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def _digest(*arrays: np.ndarray, ids: Sequence[pl.Series]) -> str:
    digest = hashlib.sha256()
    for names in ids:
        digest.update("\n".join(names).encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def _has_pandas() -> bool:
    import importlib.util

    return importlib.util.find_spec("pandas") is not None


if __name__ == "__main__":
    name, log_path, out_path, core = sys.argv[1:]
    result = {"ours": _ours, "pandas": _pandas}[name](Path(log_path), Path(out_path), int(core))
    print(json.dumps(result))
