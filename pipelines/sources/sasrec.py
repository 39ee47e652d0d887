"""The text layout of SASRec and S3-Rec: a line `user item item ...` a user, oldest first.

Attributes come from an optional JSON file, item id -> list of attribute ids (S3-Rec,
arXiv 2008.07873). The layout has no times: an event's time is its place in the line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.sources.fields import input_file, read_mapping
from pipelines.sources.ids import id_fault
from pipelines.tables import table as sizes
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import (
    INTERACTION_SCHEMA,
    ITEM_SCHEMA,
    TICKS_PER_SECOND,
    FramePart,
    RawDataset,
)
from pipelines.tables.table import line_too_long


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
        ValueError: a missing file, or nothing in it; and, where bad rows are errors, a line without
            items, an item that is not a number or lies below `index_offset`, a user with two
            lines, or an item without attributes.
    """
    path = input_file(config.folder, config.interactions, "the log")
    inputs = {path.name: path}
    lines = _read_lines(path, config.index_offset, bad_rows)
    attributes: dict[int, list[str]] = {}
    if config.attributes:
        attributes_path = input_file(config.folder, config.attributes, "attributes")
        inputs[attributes_path.name] = attributes_path
        attributes = _read_attributes(attributes_path, config.index_offset, bad_rows)
        lines = _known(path, lines, attributes_path, attributes, bad_rows)
        catalogue = np.array(sorted(attributes), np.int64)
    else:
        catalogue = np.unique(lines.items)

    users, numbers, lengths = lines.users, lines.items, lines.lengths
    starts = np.cumsum(lengths) - lengths
    interactions = pl.DataFrame(
        {
            "user": pl.Series(users, dtype=pl.String).gather(
                np.repeat(np.arange(len(users)), lengths)
            ),
            "item": pl.Series(numbers - config.index_offset).cast(pl.String),
            "time": (np.arange(len(numbers)) - np.repeat(starts, lengths)) * TICKS_PER_SECOND,
            "event": np.zeros(len(numbers), np.int32),
        },
        schema=INTERACTION_SCHEMA,
    )
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


@dataclasses.dataclass(frozen=True)
class _Lines:
    """Users, how many items each has, and all items' numbers."""

    users: list[str]
    lengths: np.ndarray
    items: np.ndarray


def _read_lines(path: Path, index_offset: int, bad_rows: BadRows) -> _Lines:
    users: list[str] = []
    lengths: list[int] = []
    numbers: list[int] = []
    line_of: dict[str, int] = {}
    offset = 0
    for line_number, raw in enumerate(_raw_lines(path), start=1):
        where = f"{path.name}, line {line_number}"
        start, offset = offset, offset + len(raw)
        try:
            line = raw.decode("utf-8-sig" if line_number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = start + error.start
            message = f"{path.name}: byte {byte} is not UTF-8 (line {line_number})"
            bad_rows.add("not_utf8", message)
            continue
        if not line.strip():
            continue
        user, *items = line.split()
        wrong = next((item for item in items if not _is_number(item, index_offset)), None)
        fault = id_fault(user)
        if fault is not None:
            bad_rows.add(fault[0], f"{where}: the user {fault[1]}")
        elif not items:
            bad_rows.add(
                "no_items",
                f"{where}: user {user!r} has no items; a line is a user and at least one item",
            )
        elif user in line_of:
            bad_rows.add(
                "duplicate_user",
                f"{where}: user {user!r} has a line already, {line_of[user]}; a user has one line",
            )
        elif wrong is not None:
            bad_rows.add(
                "not_an_item",
                f"{where}: item {wrong!r:.80} of user {user!r} is not a whole number from "
                f"{index_offset} on (index_offset is {index_offset})",
            )
        else:
            line_of[user] = line_number
            users.append(user)
            lengths.append(len(items))
            numbers.extend(map(int, items))
    if not users:
        raise ValueError(f"{path}: the file holds no interactions{bad_rows.in_words()}")
    return _Lines(users, np.array(lengths, np.int64), np.array(numbers, np.int64))


def _raw_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        line_number = 1
        while raw := file.readline(sizes.MAX_LINE_BYTES + 1):
            if len(raw) > sizes.MAX_LINE_BYTES and not raw.endswith(b"\n"):
                raise line_too_long(str(path), line_number)
            yield raw
            line_number += 1


def _is_number(item: str, least: int) -> bool:
    # int() alone would also take '1_0' and digits of other scripts, and NumPy has 64 bits.
    return item.isascii() and item.isdigit() and least <= int(item[:19]) and len(item) <= 18


def _read_attributes(path: Path, index_offset: int, bad_rows: BadRows) -> dict[int, list[str]]:
    attributes: dict[int, list[str]] = {}
    for item, values in read_mapping(path, "attributes").items():
        if not _is_number(item, index_offset):
            bad_rows.add(
                "not_an_item",
                f"{path.name}: item {item!r:.80} is not a whole number from {index_offset} on "
                f"(index_offset is {index_offset})",
            )
        elif not isinstance(values, list):
            message = f"{path.name}: attributes of item {item!r:.80} are {values!r:.80}, not a list"
            bad_rows.add("wrong_type", message)
        elif int(item) in attributes:
            message = f"{path.name}: item {item!r} is listed more than once"
            bad_rows.add("duplicate_item", message)
        else:
            attributes[int(item)] = [f"attribute={value}" for value in values]
    return attributes


def _known(
    path: Path,
    lines: _Lines,
    attributes_path: Path,
    attributes: dict[int, list[str]],
    bad_rows: BadRows,
) -> _Lines:
    """The lines without items that the catalogue lacks."""
    known = np.isin(lines.items, np.fromiter(attributes, np.int64))
    if known.all():
        return lines
    of_line = np.repeat(np.arange(len(lines.users)), lines.lengths)
    place = int(np.argmin(known))
    bad_rows.add(
        "unknown_item",
        f"{path.name}: user {lines.users[of_line[place]]!r} has item {lines.items[place]}, which "
        f"{attributes_path.name} lacks ({len(np.unique(lines.items[~known]))} such items); list "
        "it there, with [] if it has none",
        int((~known).sum()),
    )
    lengths = np.bincount(of_line[known], minlength=len(lines.users))
    left = [user for user, length in zip(lines.users, lengths, strict=True) if length]
    return _Lines(left, lengths[lengths > 0], lines.items[known])
