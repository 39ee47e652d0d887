"""The files of a prepared folder, read and looked at.

A digest says that a file is as it was written, not that it was written as this program reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from minirec import files
from minirec.files.schema import COUNT, NUMBER

REMEDY = "run launch.prepare again"
_SIZES = {"users": COUNT, "items": COUNT, "interactions": COUNT}
_TARGETS = {"views": COUNT, "tied": (COUNT, None), "in_history": COUNT}
_TIMES = {
    "earliest": (str, None),
    "latest": (str, None),
    "bulk": ([str], None),
    "before": COUNT,
    "after": COUNT,
}
HEALTH = {
    "times": (_TIMES, None),
    "ties": str,
    "targets": {"valid": _TARGETS, "test": _TARGETS},
    "repeats": COUNT,
    "read": COUNT,
    "interactions": COUNT,
    "duplicates": {"mode": str, "read": (COUNT, None), "dropped": COUNT},
    "k_core": ({"k": [COUNT], "dropped": _SIZES, "next": [{"k": [COUNT], **_SIZES}]}, None),
}
"""What `pipelines.prepare.log_health` counts."""

MANIFEST = {
    "fingerprint": str,
    "config": {"source": {"name": str}, "split": {"name": str}},
    "counts": {"prepared": _SIZES},
    "health": HEALTH,
    "event_types?": [str],
    "event_weights?": [NUMBER],
    "schema?": {"items?": {str: str}},
    "has_order?": bool,
}
"""What readers of `manifest.json` count on, as `minirec.files.schema` writes it."""

COLUMNS = {"item": "int32", "time": "int64", "event": "int32"}
ITEMS = {
    "item_id": pl.Int64,
    "raw_item_id": pl.String,
    "title": pl.String,
    "text": pl.String,
    "attributes": pl.List(pl.String),
    "train_count": pl.Int64,
}
CARRIED = (pl.String, pl.Int64, pl.Float64)
"""What a further column of the items may hold; `data.source.columns` names them."""

USERS = {"user": pl.Int64, "raw_user_id": pl.String}
_NEVER_NULL = ("item_id", "raw_item_id", "attributes", "train_count", "user", "raw_user_id")
# What Polars raises on a file that is not Parquet; its panics do not derive from Exception.
_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def read_array(path: Path, dtype: str, *shape: int | None) -> np.ndarray:
    """Returns a mapped array of a type and a shape; None stands for any length.

    Raises:
        ValueError: it is missing, damaged, or another; the message names it.
    """
    try:
        return files.read_npy(path, dtype, shape, mapped=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; {REMEDY}") from error
    except ValueError as error:
        raise ValueError(f"{error}; {REMEDY}") from error


def read_offsets(path: Path, num_users: int, num_events: int) -> Int[np.ndarray, " U+1"]:
    """Returns where each user's events begin.

    Raises:
        ValueError: as `read_array`, or they do not rise from 0 to the number of events.
    """
    offsets = read_array(path, "int64", num_users + 1)
    if offsets[0] != 0 or offsets[-1] != num_events or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(
            f"{path}: must rise from 0 to the number of events, {num_events}, and goes from "
            f"{offsets[0]} to {offsets[-1]}; {REMEDY}"
        )
    return offsets


def read_column(folder: Path, name: str, num_events: int, end: int | None) -> np.ndarray:
    """Returns a column of all events.

    Args:
        folder: the prepared folder.
        name: one of `COLUMNS`.
        num_events: how many there are.
        end: what all values lie below, from 0 on; None: they may be any.

    Raises:
        ValueError: as `read_array`, or a value lies elsewhere.
    """
    path = folder / "columns" / f"{name}.npy"
    column = read_array(path, COLUMNS[name], num_events)
    if end is not None and num_events:
        low, high = int(column.min()), int(column.max())
        if low < 0 or high >= end:
            raise ValueError(
                f"{path}: values from {low} to {high}; they must lie in [0, {end}); {REMEDY}"
            )
    return column


def read_views(
    path: Path, offsets: Int[np.ndarray, " U+1"], *, with_target: bool
) -> Int[np.ndarray, "n 3"]:
    """Returns (user, start, stop), ranges of the events of a user each.

    Args:
        path: the file.
        offsets: where each user's events begin.
        with_target: whether the event at `stop` belongs to the user, too.

    Raises:
        ValueError: as `read_array`, or a range is not within its user's events.
    """
    views = read_array(path, "int64", None, 3)
    user, start, stop = views.T
    right = (user >= 0) & (user < len(offsets) - 1)
    known = np.where(right, user, 0)
    right &= (offsets[known] <= start) & (start <= stop)
    right &= stop + with_target <= offsets[known + 1]
    if not right.all():
        row = int(right.argmin())
        raise ValueError(
            f"{path}: row {row}: (user, start, stop) is {views[row].tolist()}, which are not "
            f"events of one of the {len(offsets) - 1} users; {REMEDY}"
        )
    return views


def carried_columns(manifest: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Returns the further columns of the items, and the type of each.

    Args:
        manifest: of the prepared folder.
        where: the manifest's path, for the message.

    Raises:
        ValueError: a column is of a type that is not kept.
    """
    known = {str(kind()): kind for kind in CARRIED}
    there = manifest.get("schema", {}).get("items", {})
    carried = {name: kind for name, kind in there.items() if name not in ITEMS}
    for name, kind in carried.items():
        if kind not in known:
            raise ValueError(
                f"{where}: schema.items.{name} is {kind!r}; it must be one of "
                f"{', '.join(known)}; {REMEDY}"
            )
    return {name: known[kind] for name, kind in carried.items()}


def read_table(path: Path, schema: Mapping[str, object], num_rows: int) -> pl.DataFrame:
    """Returns a table of a schema, whose first column counts its rows.

    Raises:
        ValueError: it is missing, damaged, or another; the message names it.
    """
    try:
        scan = pl.scan_parquet(path, glob=False)
        found = dict(scan.collect_schema())
        for name, kind in schema.items():
            if found.get(name) != kind:
                raise ValueError(
                    f"{path}: column {name!r} is of type {found.get(name, 'none')}; it must be "
                    f"{kind}; {REMEDY}"
                )
        # By what the file says of itself: a row can take a bit there, and much in memory.
        rows = scan.select(pl.len()).collect().item()
        if rows != num_rows:
            raise ValueError(f"{path}: {rows} rows; there must be {num_rows}; {REMEDY}")
        table = scan.select(*schema).collect()
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; {REMEDY}") from error
    except _POLARS_ERRORS as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"{path}: damaged: {said}; {REMEDY}") from error
    for name in _NEVER_NULL:
        if name in table.columns and table[name].null_count():
            raise ValueError(f"{path}: column {name!r} has nulls; {REMEDY}")
    counter = next(iter(schema))
    if not np.array_equal(table[counter].to_numpy(), np.arange(num_rows)):
        raise ValueError(f"{path}: column {counter!r} does not count from 0; {REMEDY}")
    if "train_count" in table.columns and (table["train_count"] < 0).any():
        raise ValueError(f"{path}: column 'train_count' is negative somewhere; {REMEDY}")
    return table
