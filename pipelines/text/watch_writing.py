"""The files of rows that were made of watch histories, and how they are read back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from jaxtyping import Int64

from minirec import files

ROWS = "llm_prep_train.jsonl"
PARQUET = "llm_prep_train.parquet"
SUMMARY = "llm_prep_summary.json"
MANIFEST = "llm_prep_manifest.json"
REMEDY = "set tasks.rebuild=True to have the rows made anew"
_SCHEMA = {
    "example_id": pl.String,
    "task": pl.String,
    "input": pl.String,
    "output": pl.String,
    "anime_ids": pl.List(pl.Int64),
    "user_id": pl.Int64,
    "meta": pl.Struct({"template": pl.String, "shown": pl.Int64}),
}
_ROW_GROUP = 16_384
_TOLD_EVERY = 50_000


class RowSet(Protocol):
    """Rows of one task."""

    def __len__(self) -> int: ...

    def row(self, number: int) -> dict[str, Any]:
        """Returns a row without its id and task."""
        ...


def write_rows(
    path: Path,
    sets: Mapping[str, tuple[RowSet, Int64[np.ndarray, " n"]]],
    rng: np.random.Generator,
    tell: Callable[[str], None],
) -> int:
    """Writes the chosen rows of all tasks, shuffled, a JSON object a line; returns how many.

    Texts are made as they are written, so that memory follows the numbers behind them.

    Args:
        path: the file.
        sets: by task, its rows and which of them are written.
        rng: shuffles.
        tell: is told now and then how many were written.
    """
    names = list(sets)
    of = np.concatenate([np.full(len(chosen), n) for n, (_, chosen) in enumerate(sets.values())])
    number = np.concatenate([chosen for _, chosen in sets.values()])
    order = rng.permutation(len(number))
    parts: Sequence[RowSet] = [rows for rows, _ in sets.values()]
    with path.open("w", encoding="utf-8", newline="\n", buffering=1 << 20) as file:
        pairs = zip(of[order].tolist(), number[order].tolist(), strict=True)
        for place, (part, row) in enumerate(pairs):
            head = {"example_id": f"{names[part]}-{place:07d}", "task": names[part]}
            file.write(json.dumps(head | parts[part].row(row), ensure_ascii=False))
            file.write("\n")
            if (place + 1) % _TOLD_EVERY == 0:
                tell(f"wrote {place + 1:,} rows")
    return len(number)


def write_parquet(rows: Path, path: Path) -> None:
    """Writes the rows of a JSON-lines file as Parquet, block by block; same rows, same bytes."""
    pl.scan_ndjson(rows, schema=_SCHEMA).sink_parquet(
        path, compression="zstd", row_group_size=_ROW_GROUP, maintain_order=True
    )


def read_rows(folder: Path, most: int = 0) -> Iterator[tuple[str, str, str]]:
    """Yields task, prompt and answer of the rows in a folder, in their shuffled order.

    Args:
        folder: of the rows.
        most: so many of them; 0: all.
    """
    shape = {"task": str, "input": str, "output": str}
    rows = files.read_json_lines(folder / ROWS, shape)
    for _, row in itertools.islice(rows, most or None):
        yield row["task"], row["input"], row["output"]


def read_summary(folder: Path) -> dict[str, Any]:
    """Returns the summary in a folder of rows.

    Raises:
        DamagedError: it is not as it was written.
        OSError: it cannot be read.
    """
    return files.read_sealed(
        folder / SUMMARY, REMEDY, {"config": dict, "inputs": dict, "outputs": dict, "tasks": dict}
    )


def check_rows(folder: Path) -> dict[str, Any]:
    """Returns the summary, once all files of the folder are found to be as it says.

    Raises:
        DamagedError: a file is missing or is not as it was written.
    """
    summary = read_summary(folder)
    files.check_files(folder, summary["outputs"], remedy=REMEDY)
    if (folder / MANIFEST).is_file():
        read_manifest(folder)
    return summary


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest in a folder of rows.

    Raises:
        DamagedError: it is not as it was written.
        OSError: it cannot be read.
    """
    shape = {"config": dict, "inputs": dict, "pools": dict, "outputs": dict}
    return files.read_sealed(folder / MANIFEST, REMEDY, shape)
