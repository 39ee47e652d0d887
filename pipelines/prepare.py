"""Turns a source into a prepared folder: k-core, order, split, files, manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from minirec import files
from pipelines import sources
from pipelines.interactions import RawDataset
from pipelines.kcore import k_core
from pipelines.prepared import COLUMNS, FORMAT_VERSION, read_manifest
from pipelines.splits import Split, make_split

_FIELDS = ("source", "k_core", "split")
# Where a source lies says nothing of what it holds; hashes of the files do.
_PLACES = ("folder",)


def prepare(
    config: Mapping[str, Any], folder: str | os.PathLike[str], *, overwrite: bool = False
) -> dict[str, Any]:
    """Prepares a data set and returns its manifest.

    The folder appears whole or not at all. It is left as it is when it already holds the data set
    of this config and these input files.

    Args:
        config: `source` (a mapping: `name` and the source's own fields), `k_core` (0, the
            default, is off) and `split` (a mapping: `name` and the split's own fields, or just
            the name).
        folder: where the prepared data set shall lie.
        overwrite: replace another prepared data set that lies there.

    Returns:
        The manifest: `format_version`, `fingerprint`, `config`, `inputs` (SHA-256 and size of each
        file), `counts` at each stage, `split`, `event_types`, `has_times`, `schema`, `outputs` and
        `versions`. It holds no time of day: equal inputs give equal bytes.

    Raises:
        ValueError: a wrong config, a mistake in the data, or a folder that holds something else.
    """
    plain = _plain_config(config)
    folder = Path(folder)
    _check_place(folder)
    raw = sources.load(plain["source"])
    inputs = {
        name: {"sha256": files.sha256(path), "bytes": path.stat().st_size}
        for name, path in sorted(raw.inputs.items())
    }
    fingerprint = _fingerprint(plain, inputs, raw)
    existing = _existing(folder)
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
    raw.check()
    with _atomic_folder(folder) as temporary:
        return _write(temporary, raw, plain, inputs, fingerprint)


def _write(
    folder: Path,
    raw: RawDataset,
    config: dict[str, Any],
    inputs: dict[str, Any],
    fingerprint: str,
) -> dict[str, Any]:
    """Writes the whole data set into an empty folder and returns its manifest."""
    counts: dict[str, Any] = {"read": {**raw.counts, **_sizes(raw)}}
    if config["k_core"] > 1:
        raw = _keep_k_core(raw, config["k_core"])
        counts["after_k_core"] = _sizes(raw)

    users = raw.interactions["user"].unique(maintain_order=True)
    user = _index(raw.interactions["user"], users)
    item = _index(raw.interactions["item"], raw.items["raw_item_id"])
    time = raw.interactions["time"].to_numpy()
    if raw.given_split is None:
        # lexsort is stable: events of one time stay in the order of the log.
        order = np.lexsort((time, user))
    else:
        order = np.arange(len(user))
        if (np.diff(user) < 0).any():
            raise ValueError("a source with a given split must group its interactions by user")
    columns = {"item": item, "time": time, "event": raw.interactions["event"].to_numpy()}
    columns = {name: np.ascontiguousarray(columns[name][order], COLUMNS[name]) for name in COLUMNS}
    offsets = np.zeros(len(users) + 1, np.int64)
    offsets[1:] = np.cumsum(np.bincount(user, minlength=len(users)))
    split = make_split(
        config["split"],
        offsets,
        columns["time"],
        has_times=raw.has_times,
        given=raw.given_split,
    )
    counts["split"] = split.counts
    train_count = _train_count(columns["item"], split, len(raw.items))

    (folder / "columns").mkdir()
    (folder / "splits").mkdir()
    for name, column in columns.items():
        np.save(folder / "columns" / f"{name}.npy", column, allow_pickle=False)
    np.save(folder / "offsets.npy", offsets, allow_pickle=False)
    for name in ("train_sequences", "train", "valid", "test"):
        views = np.ascontiguousarray(getattr(split, name), np.int64)
        np.save(folder / "splits" / f"{name}.npy", views, allow_pickle=False)
    items = raw.items.with_columns(pl.Series("train_count", train_count, pl.Int64)).with_row_index(
        "item_id"
    )
    items = items.with_columns(pl.col("item_id").cast(pl.Int64))
    items.write_parquet(folder / "items.parquet")
    pl.DataFrame({"user": np.arange(len(users)), "raw_user_id": users}).write_parquet(
        folder / "users.parquet"
    )
    outputs = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "config": config,
        "inputs": inputs,
        "counts": {**counts, "prepared": _sizes(raw)},
        "split": config["split"]["name"],
        "event_types": list(raw.event_types),
        "has_times": raw.has_times,
        "schema": {
            "columns": {name: str(column.dtype) for name, column in columns.items()},
            "items": {name: str(kind) for name, kind in items.schema.items()},
        },
        "outputs": {path.relative_to(folder).as_posix(): path.stat().st_size for path in outputs},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "polars": pl.__version__,
        },
    }
    files.write_json(folder / "manifest.json", manifest)
    return manifest


def _plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain dictionaries with the defaults filled in."""
    plain = _plain(config)
    for field in plain:
        if field not in _FIELDS:
            raise ValueError(f"config.{field} is unknown to prepare; known: {', '.join(_FIELDS)}")
    if not isinstance(plain.get("source"), dict):
        raise ValueError(
            f"config.source is {plain.get('source')!r}; it must be a mapping with the source's "
            "name and fields"
        )
    k = plain.setdefault("k_core", 0)
    if not isinstance(k, int) or k < 0:
        raise ValueError(f"config.k_core is {k!r}; it must be 0 (off) or a positive integer")
    split = plain.get("split")
    plain["split"] = {"name": split} if isinstance(split, str) else split
    if not isinstance(plain["split"], dict):
        raise ValueError(
            f"config.split is {split!r}; it must be a split's name or a mapping with its name"
        )
    if plain["split"].get("name") == "as_given" and k > 1:
        raise ValueError(
            f"config.k_core is {k}, but a split 'as_given' is taken as it is; set k_core to 0 or "
            "choose another split"
        )
    return plain


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
    identity = {**config, "source": source, "inputs": inputs, "format_version": FORMAT_VERSION}
    if not inputs:  # a generated data set is known by what was generated
        for name, frame in (("interactions", raw.interactions), ("items", raw.items)):
            identity[name] = hashlib.sha256(frame.write_ndjson().encode()).hexdigest()
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _sizes(raw: RawDataset) -> dict[str, int]:
    return {
        "users": raw.interactions["user"].n_unique(),
        "items": len(raw.items),
        "interactions": len(raw.interactions),
    }


def _keep_k_core(raw: RawDataset, k: int) -> RawDataset:
    users = raw.interactions["user"].unique(maintain_order=True)
    mask = k_core(
        _index(raw.interactions["user"], users),
        _index(raw.interactions["item"], raw.items["raw_item_id"]),
        k,
    )
    interactions = raw.interactions.filter(pl.Series(mask))
    items = raw.items.join(
        interactions.select("item"),
        left_on="raw_item_id",
        right_on="item",
        how="semi",
        maintain_order="left",
    )
    return RawDataset(
        interactions=interactions,
        items=items,
        inputs=raw.inputs,
        has_times=raw.has_times,
        event_types=raw.event_types,
        counts=raw.counts,
    )


def _index(values: pl.Series, names: pl.Series) -> np.ndarray:
    """Where each value stands among `names`, which holds every one of them once."""
    table = pl.DataFrame({"name": names, "place": np.arange(len(names), dtype=np.int64)})
    joined = pl.DataFrame({"name": values}).join(
        table, on="name", how="left", maintain_order="left"
    )
    return joined["place"].to_numpy()


def _train_count(item: np.ndarray, split: Split, num_items: int) -> np.ndarray:
    steps = np.zeros(len(item) + 1, np.int64)
    np.add.at(steps, split.train_sequences[:, 1], 1)
    np.add.at(steps, split.train_sequences[:, 2], -1)
    covered = np.cumsum(steps)[:-1]
    if covered.max(initial=0) > 1:
        position = int(np.argmax(covered > 1))
        raise ValueError(
            f"the interaction at position {position} lies in {covered[position]} training "
            "sequences; it must lie in at most one"
        )
    return np.bincount(item[covered == 1], minlength=num_items)


def _check_place(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a prepared data set needs a folder of its own")


def _existing(folder: Path) -> dict[str, Any] | None:
    """Manifest of what lies there; None for nothing; an error for anything that is not ours."""
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not (folder / "manifest.json").is_file():
        raise ValueError(
            f"{folder} is not empty and holds no prepared data set (no manifest.json); choose "
            "another folder"
        )
    try:
        return read_manifest(folder)
    except ValueError:
        manifest = files.read_json(folder / "manifest.json")
        if not isinstance(manifest, dict) or "format_version" not in manifest:
            raise
        return {**manifest, "fingerprint": None}


def _source_name(manifest: dict[str, Any]) -> str | None:
    return manifest.get("config", {}).get("source", {}).get("name")


def _is_complete(folder: Path, manifest: dict[str, Any]) -> bool:
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in manifest["outputs"].items()
    )


@contextlib.contextmanager
def _atomic_folder(folder: Path) -> Generator[Path]:
    """Yields an empty folder beside `folder` that takes its place on a clean exit."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (workplace / "new").mkdir()
        yield workplace / "new"
        for path in (workplace / "new").rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if folder.exists():
            os.replace(folder, workplace / "old")
        try:
            os.replace(workplace / "new", folder)
        except BaseException:
            if (workplace / "old").exists():
                os.replace(workplace / "old", folder)
            raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
