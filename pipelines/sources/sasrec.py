"""The text layout of SASRec and S3-Rec: a line `user item item ...` a user, oldest first.

Attributes come from an optional JSON file, item id -> list of attribute ids (S3-Rec,
arXiv 2008.07873). The layout has no times: an event's time is its place in the line.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.bad_rows import BadRows
from pipelines.interactions import INTERACTION_SCHEMA, ITEM_SCHEMA, FramePart, RawDataset
from pipelines.sources.fields import input_file, read_mapping


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of the source.

    Attributes:
        folder: where the files lie.
        interactions: file of the lines, or a pattern such as `*.txt` that one file matches.
        attributes: JSON file of attributes (or a pattern), or empty for none. With it, it is the
            catalogue; without, the catalogue is the items of the log.
        index_offset: what is taken off an item's number to get its `raw_item_id`. LETTER's
            `index.json` counts items from 0 where S3-Rec's files count from 1: with 1 here,
            prepared items and the index agree.
    """

    folder: str
    interactions: str
    attributes: str = ""
    index_offset: int = 0


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Reads the lines and the attributes.

    Raises:
        ValueError: a missing file, a line without items, an item that is not a number or lies
            below `index_offset`, a user with two lines, or an item without attributes.
    """
    path = input_file(config.folder, config.interactions, "the log")
    inputs = {path.name: path}
    users, lengths, numbers = _read_lines(path, config.index_offset, bad_rows)
    attributes: dict[int, list[str]] = {}
    known = np.ones(len(numbers), bool)
    if config.attributes:
        attributes_path = input_file(config.folder, config.attributes, "attributes")
        inputs[attributes_path.name] = attributes_path
        attributes = _read_attributes(attributes_path, config.index_offset)
        known = _check_known(path, users, lengths, numbers, attributes_path, attributes, bad_rows)
        catalogue = np.array(sorted(attributes), np.int64)
    else:
        catalogue = np.unique(numbers)

    starts = np.cumsum(lengths) - lengths
    interactions = pl.DataFrame(
        {
            "user": pl.Series(users, dtype=pl.String).gather(
                np.repeat(np.arange(len(users)), lengths)
            ),
            "item": pl.Series(numbers - config.index_offset).cast(pl.String),
            "time": np.arange(len(numbers)) - np.repeat(starts, lengths),
            "event": np.zeros(len(numbers), np.int32),
        },
        schema=INTERACTION_SCHEMA,
    )
    if not known.all():
        interactions = interactions.filter(pl.Series(known))
    items = pl.DataFrame(
        {
            "raw_item_id": pl.Series(catalogue - config.index_offset).cast(pl.String),
            "title": [""] * len(catalogue),
            "text": [""] * len(catalogue),
            "attributes": [attributes.get(int(number), []) for number in catalogue],
        },
        schema=ITEM_SCHEMA,
    )
    return RawDataset((FramePart(interactions),), items, inputs=inputs, has_times=False)


def _read_lines(
    path: Path, index_offset: int, bad_rows: BadRows
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Users, the number of items of each, and all items' numbers."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    users: list[str] = []
    lengths: list[int] = []
    numbers: list[int] = []
    line_of: dict[str, int] = {}
    for line_number, raw_line in enumerate(data.split(b"\n"), start=1):
        where = f"{path}, line {line_number}"
        try:
            line = raw_line.decode()
        except UnicodeDecodeError as error:
            bad_rows.add("not_in_encoding", f"{where}: byte {error.start + 1} is not UTF-8")
            continue
        if not line.strip():
            continue
        user, *items = line.split()
        bad = [item for item in items if not _is_number(item, index_offset)]
        if not items:
            bad_rows.add(
                "row_does_not_parse",
                f"{where}: user {user!r} has no items; a line is a user and at least one item",
            )
        elif user in line_of:
            bad_rows.add(
                "duplicate_user",
                f"{where}: user {user!r} has a line already, {line_of[user]}; a user has one line",
            )
        elif bad:
            bad_rows.add(
                "unclean_id",
                f"{where}: item {bad[0]!r} of user {user!r} is not a whole number from "
                f"{index_offset} on (index_offset is {index_offset})",
            )
        if not items or user in line_of or bad:
            continue
        line_of[user] = line_number
        users.append(user)
        lengths.append(len(items))
        numbers.extend(map(int, items))
    if not users:
        raise ValueError(f"{path}: the file holds no interactions")
    return users, np.array(lengths, np.int64), np.array(numbers, np.int64)


def _is_number(item: str, least: int) -> bool:
    # int() alone would also take '1_0' and digits of other scripts, and NumPy has 64 bits.
    return item.isascii() and item.isdigit() and least <= int(item[:19]) and len(item) <= 18


def _read_attributes(path: Path, index_offset: int) -> dict[int, list[str]]:
    attributes: dict[int, list[str]] = {}
    for item, values in read_mapping(path, "attributes").items():
        if not _is_number(item, index_offset):
            raise ValueError(
                f"{path}: item {item!r} is not a whole number from {index_offset} on "
                f"(index_offset is {index_offset})"
            )
        if not isinstance(values, list):
            raise ValueError(f"{path}: attributes of item {item!r} are {values!r}, not a list")
        if int(item) in attributes:
            raise ValueError(f"{path}: item {item!r} is listed more than once")
        attributes[int(item)] = [f"attribute={value}" for value in values]
    return attributes


def _check_known(
    path: Path,
    users: list[str],
    lengths: np.ndarray,
    numbers: np.ndarray,
    attributes_path: Path,
    attributes: dict[int, list[str]],
    bad_rows: BadRows,
) -> np.ndarray:
    """Returns which interactions are with items that have attributes."""
    known = np.isin(numbers, np.fromiter(attributes, np.int64))
    if not known.all():
        place = int(np.argmin(known))
        user = users[int(np.searchsorted(np.cumsum(lengths), place, side="right"))]
        bad_rows.add(
            "unknown_item",
            f"{path}: user {user!r} has item {numbers[place]}, which {attributes_path} lacks "
            f"({len(np.unique(numbers[~known]))} such items); list it there, with [] if it has "
            "none",
            int((~known).sum()),
        )
    return known
