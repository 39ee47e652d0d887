"""Reads a log of any size, chunk by chunk, into columns of dense numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from pipelines.bad_rows import BadRows
from pipelines.interactions import ITEM_SCHEMA, RawDataset, check_frame


@dataclasses.dataclass(frozen=True)
class CodedLog:
    """A log whose users and items are numbers, in the order of the source.

    Attributes:
        user: `[E]` place in `users`.
        item: `[E]` row of `items`.
        time: `[E]` seconds.
        event: `[E]` index of the event's type.
        users: raw id of each user, in order of first appearance.
        items: the catalogue, columns `ITEM_SCHEMA`.
    """

    user: Int32[np.ndarray, " E"]
    item: Int32[np.ndarray, " E"]
    time: Int64[np.ndarray, " E"]
    event: Int32[np.ndarray, " E"]
    users: pl.Series
    items: pl.DataFrame


def read_log(raw: RawDataset, bad_rows: BadRows) -> CodedLog:
    """Reads all parts of a log and numbers its users and items.

    Raises:
        ValueError: nothing in it, a duplicate in the catalogue, an item that the catalogue lacks,
            an unknown event type, or what the source's parts find wrong.
    """
    catalogue = None if raw.items is None else _checked(raw.items, bad_rows)
    frames = []
    for part in raw.parts:
        for chunk in part.chunks(bad_rows):
            chunk = chunk.with_columns(pl.col("user", "item").cast(pl.String))
            _check_events(part.name, chunk, raw.event_types)
            if catalogue is not None:
                chunk = _known_items(part.name, chunk, catalogue, bad_rows)
            frames.append(chunk.drop("line"))
    log = pl.concat(frames) if frames else None
    if log is None or log.is_empty():
        names = ", ".join(part.name for part in raw.parts)
        raise ValueError(f"{names}: the source gave no interactions: there is nothing to prepare")
    if catalogue is None:
        catalogue = catalogue_of(log["item"].unique().sort())
    users = log["user"].unique(maintain_order=True)
    return CodedLog(
        user=_index(log["user"], users),
        item=_index(log["item"], catalogue["raw_item_id"]),
        time=log["time"].to_numpy(),
        event=log["event"].to_numpy(),
        users=users,
        items=catalogue,
    )


def catalogue_of(raw_item_ids: pl.Series) -> pl.DataFrame:
    """Returns a catalogue of items of which nothing but the id is known."""
    columns: dict[str, Any] = {
        "raw_item_id": raw_item_ids,
        "title": pl.repeat("", len(raw_item_ids), eager=True),
        "text": pl.repeat("", len(raw_item_ids), eager=True),
        "attributes": pl.Series([[]] * len(raw_item_ids), dtype=pl.List(pl.String)),
    }
    return pl.DataFrame(columns, schema=ITEM_SCHEMA)


def _checked(items: pl.DataFrame, bad_rows: BadRows) -> pl.DataFrame:
    check_frame("items", items, ITEM_SCHEMA)
    if items.is_empty():
        raise ValueError("the source gave no items: there is nothing to prepare")
    ids = items["raw_item_id"]
    if ids.n_unique() == len(ids):
        return items
    twice = ids.filter(ids.is_duplicated())[0]
    bad_rows.add(
        "duplicate_item",
        f"the catalogue lists item {twice!r} more than once; every item needs exactly one row",
        len(ids) - ids.n_unique(),
    )
    return items.unique("raw_item_id", keep="first", maintain_order=True)


def _check_events(name: str, chunk: pl.DataFrame, event_types: tuple[str, ...]) -> None:
    event = chunk["event"]
    wrong = (event < 0) | (event >= len(event_types))
    if wrong.any():
        row = chunk.row(int(wrong.arg_true()[0]), named=True)
        raise ValueError(
            f"{name}, line {row['line']}: event type {row['event']}, but there are "
            f"{len(event_types)}: {event_types}"
        )


def _known_items(
    name: str, chunk: pl.DataFrame, catalogue: pl.DataFrame, bad_rows: BadRows
) -> pl.DataFrame:
    known = chunk["item"].is_in(catalogue["raw_item_id"].implode())
    if known.all():
        return chunk
    unknown = chunk.filter(~known)
    row = unknown.row(0, named=True)
    bad_rows.add(
        "unknown_item",
        f"{name}, line {row['line']}: user {row['user']!r} has item {row['item']!r}, which the "
        "catalogue lacks; add it to the catalogue",
        len(unknown),
    )
    return chunk.filter(known)


def _index(values: pl.Series, names: pl.Series) -> Int32[np.ndarray, " n"]:
    """Where each value stands among `names`, which holds every one of them once."""
    table = pl.DataFrame({"name": names, "place": np.arange(len(names), dtype=np.int32)})
    joined = pl.DataFrame({"name": values}).join(
        table, on="name", how="left", maintain_order="left"
    )
    return joined["place"].to_numpy()
