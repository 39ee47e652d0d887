"""Reads a prepared folder, which `pipelines.prepare.prepare` wrote."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from minirec import files
from minirec.files.schema import check, is_number
from pipelines.prepare.splits import train_views
from pipelines.prepared_files import (
    COLUMNS,
    ITEMS,
    MANIFEST,
    REMEDY,
    USERS,
    carried_columns,
    read_column,
    read_offsets,
    read_table,
    read_views,
)

FORMAT_VERSION = 3
SPLIT_NAMES = ("train", "valid", "test")
_ONE_TYPE = ["interaction"]
_REMEDY_OVER_IT = f"{REMEDY}, with --overwrite"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared data set; the arrays are memory-mapped and read-only.

    Attributes:
        folder: where it lies.
        items: one row an item, in the order of `item_id`: `item_id`, `raw_item_id`, `title`,
            `text`, `attributes`, `train_count`, and those that `source.columns` names.
        columns: `item` int32, `time` int64 and `event` int32, each `[E]`: all events, grouped by
            user, oldest first.
        offsets: int64 `[U + 1]`; the events of user `u` are `offsets[u]:offsets[u + 1]`.
        train_sequences: int64 `[S, 3]` (user, start, stop), absolute positions; every training
            interaction lies in exactly one sequence.
        manifest: schema, counts at each stage, hashes of the inputs, config, versions.
    """

    folder: Path
    items: pl.DataFrame
    columns: dict[str, np.ndarray]
    offsets: Int[np.ndarray, " U+1"]
    train_sequences: Int[np.ndarray, "S 3"]
    manifest: dict[str, Any]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Prepared:
        """Opens the prepared data set in `folder`, after a look at every byte of it.

        Raises:
            ValueError: the folder holds none, one of another format, or a damaged one.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        check_outputs(folder, manifest)
        counts = manifest["counts"]["prepared"]
        num_events = counts["interactions"]
        schema = {**ITEMS, **carried_columns(manifest, folder / "manifest.json")}
        items = read_table(folder / "items.parquet", schema, counts["items"])
        ends = {"item": len(items), "event": len(manifest.get("event_types", _ONE_TYPE))}
        columns = {name: read_column(folder, name, num_events, ends.get(name)) for name in COLUMNS}
        offsets = read_offsets(folder / "offsets.npy", counts["users"], num_events)
        path = folder / "splits" / "train_sequences.npy"
        sequences = read_views(path, offsets, with_target=False)
        return cls(folder, items, columns, offsets, sequences, manifest)

    @property
    def num_items(self) -> int:
        """Number of items in the catalogue."""
        return len(self.items)

    @property
    def carried(self) -> pl.DataFrame:
        """The columns that `source.columns` names, String, Int64 or Float64, one row an item."""
        return self.items.drop(*ITEMS)

    @property
    def num_users(self) -> int:
        """Number of users with at least one event."""
        return len(self.offsets) - 1

    @functools.cached_property
    def users(self) -> pl.DataFrame:
        """One row a user: `user` (its index) and `raw_user_id`."""
        return read_table(self.folder / "users.parquet", USERS, self.num_users)

    @functools.cached_property
    def _held_out(self) -> dict[str, Int[np.ndarray, "n 3"]]:
        return {
            split: read_views(
                self.folder / "splits" / f"{split}.npy", self.offsets, with_target=True
            )
            for split in ("valid", "test")
        }

    @functools.cached_property
    def train_count(self) -> Int[np.ndarray, " N"]:
        """int64: training interactions of each item."""
        return self.items["train_count"].to_numpy()

    @functools.cached_property
    def event_weights(self) -> dict[str, float]:
        """What an event of each type counts as a training target, in the order of their numbers.

        Raises:
            ValueError: the manifest's types and weights do not fit together.
        """
        names = self.manifest.get("event_types", _ONE_TYPE)
        weights = self.manifest.get("event_weights", [1.0] * len(names))
        where = self.folder / "manifest.json"
        if len(names) != len(weights) or len(set(names)) < len(names):
            raise ValueError(
                f"{where}: event_types is {names}, event_weights {weights}; there must be as many "
                "weights as types, and no type twice: prepare again"
            )
        for name, weight in zip(names, weights, strict=True):
            if not is_number(weight) or weight < 0:
                raise ValueError(
                    f"{where}: event_weights gives {name!r} the weight {weight!r}; it must be a "
                    "finite number, 0 or more: prepare again"
                )
        return {name: float(weight) for name, weight in zip(names, weights, strict=True)}

    @property
    def has_order(self) -> bool:
        """Whether a user's events have an order; else they stand in a drawn one."""
        return self.manifest.get("has_order", True)

    @property
    def raw_item_ids(self) -> list[str]:
        """What the log called each item, in the order of `item_id`."""
        return self.items["raw_item_id"].to_list()

    @property
    def titles(self) -> list[str]:
        """What to show people of each item: its title, or its `raw_item_id` where it has none."""
        names = zip(self.items["title"].to_list(), self.raw_item_ids, strict=True)
        return [title or raw_item_id for title, raw_item_id in names]

    def views(self, split: str) -> Int[np.ndarray, "n 3"]:
        """Returns the views (user, start, stop) of a split.

        The history of a view is `columns["item"][start:stop]`, its target `columns["item"][stop]`.

        Args:
            split: `train`, `valid` or `test`.

        Raises:
            ValueError: an unknown split.
        """
        if split not in SPLIT_NAMES:
            raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLIT_NAMES)}")
        if split == "train":  # They follow from the sequences, and are many.
            return train_views(self.train_sequences)
        return self._held_out[split]

    def targets(self, split: str) -> Int[np.ndarray, " n"]:
        """Returns the item that each view of a split asks for, int32 `[n]`."""
        return self.columns["item"][self.views(split)[:, 2]]

    def histories(self, split: str, rows: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " H"]]:
        """Returns the whole histories of some views of a split, item ids, oldest first."""
        item = self.columns["item"]
        return [np.asarray(item[start:stop]) for _, start, stop in self.views(split)[rows]]

    def training_items(self) -> tuple[Int[np.ndarray, " E_train"], Int[np.ndarray, " S+1"]]:
        """Returns the items of all training sequences, concatenated, and where each begins.

        Returns:
            `item` int32 `[E_train]` and `offsets` int64 `[S + 1]`: sequence `s` is
            `item[offsets[s]:offsets[s + 1]]`. Nothing held out is among them.
        """
        length = self.train_sequences[:, 2] - self.train_sequences[:, 1]
        offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        position = np.arange(offsets[-1]) + np.repeat(
            self.train_sequences[:, 1] - offsets[:-1], length
        )
        return self.columns["item"][position], offsets


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a prepared folder.

    Raises:
        ValueError: there is none, it is of another format, or it is damaged.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no prepared data set (no manifest.json); run launch.prepare first"
        )
    try:
        manifest = files.read_json(path)
    except ValueError as error:
        raise files.DamagedError(f"{error}; {_REMEDY_OVER_IT}") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {version!r}, this program reads {FORMAT_VERSION} (up to 2, "
            "records may be in the wrong order where times have fractions of a second); "
            f"{_REMEDY_OVER_IT}"
        )
    manifest = files.unseal(manifest, path, _REMEDY_OVER_IT)
    try:
        check(manifest, MANIFEST, str(path))
    except ValueError as error:
        raise files.DamagedError(f"{error}; {_REMEDY_OVER_IT}") from error
    return manifest


def check_outputs(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compares the files of a prepared folder with what its manifest says of them.

    Raises:
        ValueError: one is missing or damaged; the message names it.
    """
    files.check_files(folder, manifest.get("outputs"), remedy=REMEDY)
