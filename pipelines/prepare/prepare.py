"""Turns a source into a prepared folder: k-core, order, split, files, manifest.

What comes out depends on nothing but the config and the bytes of the input files:

- the log is the source's parts in order, each one's rows in order; bad rows are left out first,
  then those outside the config's window of time;
- an id is text; one that a file holds as an integer is its decimal text;
- duplicates go, where the config says so, once the log is in order;
- the k-core is the largest part of the rest in which all users and items have k interactions; items
  that have none of it leave the catalogue;
- users are numbered by the first of their interactions that is left, in the order of the log, or by
  id as text where ties are shuffled;
- items are numbered as the catalogue lists them, or, where there is none, by id as text (by the
  bytes of its UTF-8);
- a user's events are ordered by time, as finely as the log tells it, and those of equal time as the
  log has them, or in an order drawn by lot; whole seconds of the times are stored.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from minirec import files
from pipelines import sources
from pipelines.prepare.kcore import as_ks, count
from pipelines.prepare.log_health import log_health
from pipelines.prepare.log_options import DEFAULTS, LogOptions
from pipelines.prepare.ordered_log import Engine, OrderedLog, Progress, order_in_memory, writing
from pipelines.prepare.splits import Split, make_split
from pipelines.prepared import FORMAT_VERSION, check_outputs, read_manifest
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import TICKS_PER_SECOND, RawDataset

_FIELDS = ("source", "k_core", "split", "on_bad_rows", "ties", "duplicates", "time_from", "time_to")
# Where a source lies says nothing of what it holds; hashes of the files do.
_PLACES = ("folder",)


def prepare(
    config: Mapping[str, Any],
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    engine: Engine = order_in_memory,
) -> dict[str, Any]:
    """Prepares a data set and returns its manifest.

    The folder appears whole or not at all. It is left as it is when it already holds the data set
    of this config and these input files.

    Args:
        config: `source` (a mapping: `name` and the source's own fields), `k_core` (0, the
            default, is off; two numbers are of users and of items), `split` (a mapping: `name` and
            the split's own fields, or just the name), `on_bad_rows` ("error", the default, or
            "skip": rows that are wrong are left out and counted), `time_from` and `time_to` (ISO
            dates or date-times, UTC where they have no zone: rows before the one, and at the other
            or later, are not part of the log; "", the default, is off), `ties` ("log", the default,
            or "shuffled", see `pipelines.prepare.ties`) and `duplicates` ("keep", the default,
            "drop_exact", "drop_consecutive" or "first", see `pipelines.prepare.duplicates`).
        folder: where the prepared data set shall lie.
        overwrite: replace another prepared data set that lies there.
        progress: is told now and then how many rows have been read.
        engine: reads, filters and orders the log; what comes out is the same with each.

    Returns:
        The manifest: `format_version`, `fingerprint`, `config`, `inputs` (SHA-256 and size of each
        file), `counts` at each stage, `skipped` rows by reason, `split`, `event_types` and
        `event_weights`, `has_times`, `has_order` (where there is none), `health` (see
        `pipelines.prepare.log_health`), `schema`, `outputs` (SHA-256 and size of each file) and
        `versions`. It holds no time of day: equal inputs give equal bytes.

    Raises:
        ValueError: a wrong config, a mistake in the data, or a folder that holds something else.
        OSError: the disk is full or refuses to be written.
    """
    plain = plain_config(config)
    options = LogOptions.of_config(plain)
    if plain["split"].get("name") == "as_given" and (changing := options.changing()):
        field = changing[0]
        raise ValueError(
            f"config.{field} is {plain[field]!r}, but a split 'as_given' is taken as it is; set "
            f"{field} to {DEFAULTS[field]!r} or choose another split"
        )
    folder = Path(folder)
    _check_place(folder)
    bad_rows = BadRows(plain["on_bad_rows"])
    raw = sources.load(plain["source"], bad_rows)
    _check_options(raw, options, plain)
    inputs = {
        name: {"sha256": files.sha256(path), "bytes": path.stat().st_size}
        for name, path in sorted(raw.inputs.items())
    }
    fingerprint = _fingerprint(plain, inputs, raw)
    existing = _existing(folder, overwrite)
    if existing is not None:
        if existing.get("fingerprint") == fingerprint and _is_complete(folder, existing):
            return existing
        if existing.get("fingerprint") != fingerprint and not overwrite:
            raise ValueError(
                f"{folder} holds another prepared data set (source "
                f"{_source_name(existing)!r}, fingerprint {existing.get('fingerprint')!r}), not "
                f"that of this config and its input files (source {plain['source']['name']!r}, "
                f"fingerprint {fingerprint!r}); choose another folder or --overwrite it"
            )
    with files.atomic_folder(folder) as temporary:
        log = engine(raw, bad_rows, options, temporary, progress)
        return _write(temporary, raw, log, bad_rows, options, plain, inputs, fingerprint)


def _write(
    folder: Path,
    raw: RawDataset,
    log: OrderedLog,
    bad_rows: BadRows,
    options: LogOptions,
    config: dict[str, Any],
    inputs: dict[str, Any],
    fingerprint: str,
) -> dict[str, Any]:
    """Writes all but the columns, which lie there, and returns the manifest."""
    split = make_split(
        config["split"],
        log.offsets,
        log.ticks,
        ticks_per_second=TICKS_PER_SECOND,
        has_times=raw.has_times,
        given=raw.given_split,
    )
    train_count = _train_count(log.columns["item"], split, len(log.items))

    (folder / "splits").mkdir()
    arrays = {"offsets": log.offsets}
    for name in ("train_sequences", "valid", "test"):
        arrays[f"splits/{name}"] = np.ascontiguousarray(getattr(split, name), np.int64)
    for name, array in arrays.items():
        with writing(f"{name}.npy"):
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
    items = log.items.with_columns(pl.Series("train_count", train_count, pl.Int64)).with_row_index(
        "item_id"
    )
    items = items.with_columns(pl.col("item_id").cast(pl.Int64))
    users = pl.DataFrame({"user": np.arange(len(log.users)), "raw_user_id": log.users})
    for name, table in (("items", items), ("users", users)):
        with writing(f"{name}.parquet"):
            # In one chunk, so that the bytes do not tell how the table came about.
            table.rechunk().write_parquet(folder / f"{name}.parquet")
    outputs = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    manifest = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "config": config,
        "inputs": inputs,
        "counts": {**log.counts, "split": split.counts, "prepared": log.sizes()},
        "skipped": bad_rows.report(),
        "split": config["split"]["name"],
        "event_types": list(raw.event_types),
        "event_weights": list(raw.event_weights or (1.0,) * len(raw.event_types)),
        "has_times": raw.has_times,
        **({} if raw.has_order else {"has_order": False}),
        "health": log_health(
            log,
            split,
            options,
            has_times=raw.has_times,
            as_given=config["split"]["name"] == "as_given",
        ),
        "schema": {
            "columns": {name: str(column.dtype) for name, column in log.columns.items()},
            "items": {name: str(kind) for name, kind in items.schema.items()},
        },
        "outputs": files.checksums(folder, outputs),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "polars": pl.__version__,
        },
    }
    with writing("manifest.json"):
        files.write_sealed(folder / "manifest.json", manifest)
    return manifest


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config as the manifest has it: plain values, the defaults filled in.

    Raises:
        ValueError: an unknown field, or a part that is not a mapping.
    """
    plain = _plain(config)
    for field in plain:
        if field not in _FIELDS:
            raise ValueError(f"config.{field} is unknown to prepare; known: {', '.join(_FIELDS)}")
    if not isinstance(plain.get("source"), dict):
        raise ValueError(
            f"config.source is {plain.get('source')!r}; it must be a mapping with the source's "
            "name and fields"
        )
    source = plain["source"]
    if not source.get("columns", True):  # None, as in records from before there was the field.
        plain["source"] = {name: value for name, value in source.items() if name != "columns"}
    plain = {"on_bad_rows": "error", **DEFAULTS, **plain}
    ks = as_ks(plain["k_core"])
    plain["k_core"] = ks[0] if ks[0] == ks[1] else list(ks)
    split = plain.get("split")
    plain["split"] = {"name": split} if isinstance(split, str) else split
    if not isinstance(plain["split"], dict):
        raise ValueError(
            f"config.split is {split!r}; it must be a split's name or a mapping with its name"
        )
    return plain


def _check_options(raw: RawDataset, options: LogOptions, config: dict[str, Any]) -> None:
    """Checks that the log can be treated so."""
    if not raw.has_times and (comparing := options.comparing_times()):
        field = comparing[0]
        raise ValueError(
            f"config.{field} is {config[field]!r}, which compares times, but source "
            f"{config['source']['name']!r} has none here; set {field} to {DEFAULTS[field]!r}"
        )
    if raw.given_split is not None and options.ties != DEFAULTS["ties"]:
        raise ValueError(
            f"config.ties is {options.ties!r}, but a source that brings a split is taken in its "
            f"own order; set ties to {DEFAULTS['ties']!r}"
        )


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):  # ml_collections.ConfigDict
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _fingerprint(config: dict[str, Any], inputs: dict[str, Any], raw: RawDataset) -> str:
    source = {key: value for key, value in config["source"].items() if key not in _PLACES}
    # A default says nothing of what came out.
    silent = {"on_bad_rows": "error", **DEFAULTS}
    del silent["k_core"]  # Always said.
    config = {key: value for key, value in config.items() if silent.get(key) != value}
    identity = {**config, "source": source, "inputs": inputs, "format_version": FORMAT_VERSION}
    if not inputs:  # a generated data set is known by what was generated
        for name, frame in (("interactions", raw.interactions), ("items", raw.items)):
            if frame is None:
                continue
            identity[name] = hashlib.sha256(frame.write_ndjson().encode()).hexdigest()
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _train_count(item: np.ndarray, split: Split, num_items: int) -> np.ndarray:
    """Returns how many training interactions each item has."""
    sequences = split.train_sequences[np.argsort(split.train_sequences[:, 1], kind="stable")]
    start, stop = sequences[:, 1], sequences[:, 2]
    overlap = start[1:] < np.maximum.accumulate(stop)[:-1]
    if overlap.any():
        raise ValueError(
            f"the interaction at position {start[1:][overlap][0]} lies in more than one training "
            "sequence; it must lie in at most one"
        )
    # +1 where a sequence begins, -1 where it ends: the running sum marks what lies in one.
    marks = np.zeros(len(item) + 1, np.int8)
    marks[start] += 1
    marks[stop] -= 1
    np.cumsum(marks, out=marks)
    return count(item, num_items, marks[:-1].view(bool))


def _check_place(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a prepared data set needs a folder of its own")


def _existing(folder: Path, overwrite: bool) -> dict[str, Any] | None:
    """Manifest of what lies there; None for nothing; an error for what may not be replaced."""
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not (folder / "manifest.json").is_file():
        raise ValueError(
            f"{folder} is not empty and holds no prepared data set (no manifest.json); choose "
            "another folder"
        )
    try:
        return read_manifest(folder)
    except ValueError:  # Damaged, or of another version: ours all the same.
        if overwrite and (folder / "columns").is_dir():
            return {"fingerprint": None}
        raise


def _source_name(manifest: dict[str, Any]) -> str | None:
    return manifest.get("config", {}).get("source", {}).get("name")


def _is_complete(folder: Path, manifest: dict[str, Any]) -> bool:
    try:
        check_outputs(folder, manifest)
    except ValueError:
        return False
    return True
