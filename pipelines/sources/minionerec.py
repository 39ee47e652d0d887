"""The folder layout that MiniOneRec ships (arXiv 2510.24431): rows of (user, history, target).

The layout holds no log, only three CSV files whose rows repeat a user's events again and again,
with histories cut to the newest ten. `_Timelines` puts each user's events back in one line, so that
an event is stored once and a training interaction counts once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.sources.carried import check_carried, typed
from pipelines.sources.fields import input_file, only_file, read_mapping, text_list
from pipelines.sources.ids import id_fault
from pipelines.tables import CsvTable, flush
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import (
    INTERACTION_SCHEMA,
    ITEM_SCHEMA,
    TICKS_PER_SECOND,
    FramePart,
    GivenSplit,
    RawDataset,
)
from pipelines.tables.table import listed

_REQUIRED = ("user_id", "history_item_id", "item_id")
_ATTRIBUTES = ("brand", "category")
# Beside the ids a row may repeat titles and SIDs; they must be as many as the ids.
_PARALLEL = ("history_item_title", "history_item_sid")


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of the source; a file that is not named is the only one of its kind in its folder.

    Attributes:
        folder: where `train/`, `valid/`, `test/` and `index/` lie.
        train: CSV file of training rows, relative to `folder`.
        valid: CSV file of validation rows.
        test: CSV file of test rows.
        items: JSON file, item id -> title, description, brand, categories.
        index: JSON file, item id -> SID. Where rows have SIDs, they must agree with it.
        columns: fields of the items, texts or numbers, that `items.parquet` keeps as they are, so
            that a server's rules (`price < 20`) can speak of them.
        train_on_context: whether a user without training rows trains on what the first of their
            validation or test rows has as its history. These events are not a row's target, but
            nothing says that they are older than other users' validation rows, so the default is
            to leave them out.
    """

    folder: str
    train: str = ""
    valid: str = ""
    test: str = ""
    items: str = ""
    index: str = ""
    columns: tuple[str, ...] = ()
    train_on_context: bool = False


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Reads rows and catalogue, and merges each user's rows into one timeline.

    Returns:
        The data set with `given_split`. Events that only histories of validation or test rows
        hold are in the interactions, but in no training sequence unless the config says so.

    Raises:
        ValueError: a missing file or column, or a mistake in the catalogue or the index; and, where
            bad rows are errors, a row that does not parse, lists of a row that differ in length,
            an empty history, an item that the catalogue lacks, or a SID that differs from the
            index.
    """
    folder = config.folder
    paths = {
        split: _find(folder, getattr(config, split), f"{split}/*.csv", f"the {split} rows")
        for split in ("train", "valid", "test")
    }
    paths["items"] = _find(folder, config.items, "index/*.item.json", "the catalogue")
    paths["index"] = _find(folder, config.index, "index/*.index.json", "the SIDs")
    items = _read_items(paths["items"], config.columns)
    place_of = {raw: place for place, raw in enumerate(items["raw_item_id"])}
    sid_of = _read_index(paths["index"])

    rows = {
        split: _read_rows(paths[split], place_of, sid_of, bad_rows)
        for split in ("train", "valid", "test")
    }
    timelines = _Timelines()
    for split in ("train", "valid", "test"):
        for user, history, target in rows[split]:
            timelines.add(split, user, history, target)
    interactions, given, counts = timelines.finish(
        items["raw_item_id"], train_on_context=config.train_on_context
    )
    counts.update({f"{split}_rows": len(rows[split]) for split in rows})
    inputs = {path.relative_to(folder).as_posix(): path for path in paths.values()}
    return RawDataset(
        (FramePart(interactions),),
        items,
        inputs=inputs,
        has_times=False,
        given_split=given,
        counts=counts,
    )


class _Timelines:
    """Each user's events in one line, from rows that repeat them.

    A row's history overlaps with the end of the user's line as far as it can; what the line does
    not hold yet, and the target, are appended. So a history that equals the newest events of the
    line adds its target alone, and one that does not overlap begins a new segment.
    """

    def __init__(self) -> None:
        self._events: dict[str, list[int]] = {}
        # Ranges within a user's line: training segments, events that only serve as history of
        # the other two splits, and those splits' views.
        self._train: dict[str, list[tuple[int, int]]] = {}
        self._context: dict[str, list[tuple[int, int]]] = {}
        self._views: dict[str, list[tuple[str, int, int]]] = {"valid": [], "test": []}
        self._counts = {"rows_appended": 0, "rows_overlapping": 0, "rows_apart": 0}

    def add(self, split: str, user: str, history: list[int], target: int) -> None:
        """Adds one row; training rows must come before all others."""
        events = self._events.setdefault(user, [])
        overlap = min(len(history), len(events))
        while overlap and events[len(events) - overlap :] != history[:overlap]:
            overlap -= 1
        start = len(events) - overlap
        events.extend(history[overlap:])
        events.append(target)
        if split == "train":
            segments = self._train.setdefault(user, [])
            if overlap and segments:
                segments[-1] = (segments[-1][0], len(events))
            else:
                segments.append((start, len(events)))
        else:
            self._views[split].append((user, start, len(events) - 1))
            if overlap < len(history):
                new = (start + overlap, len(events) - 1)
                self._context.setdefault(user, []).append(new)
        if overlap == len(history):
            self._counts["rows_appended"] += 1
        elif overlap:
            self._counts["rows_overlapping"] += 1
        else:
            self._counts["rows_apart"] += 1

    def finish(
        self, raw_item_ids: pl.Series, *, train_on_context: bool
    ) -> tuple[pl.DataFrame, GivenSplit, dict[str, int]]:
        """Returns all events, grouped by user, the split in rows of them, and counts."""
        users = list(self._events)
        lengths = np.array([len(events) for events in self._events.values()], np.int64)
        starts = np.cumsum(lengths) - lengths
        start_of = dict(zip(users, starts.tolist(), strict=True))
        item = np.array([item for events in self._events.values() for item in events], np.int64)
        interactions = pl.DataFrame(
            {
                "user": pl.Series(users, dtype=pl.String).gather(
                    np.repeat(np.arange(len(users)), lengths)
                ),
                "item": raw_item_ids.gather(item),
                "time": (np.arange(len(item)) - np.repeat(starts, lengths)) * TICKS_PER_SECOND,
                "event": np.zeros(len(item), np.int32),
            },
            schema=INTERACTION_SCHEMA,
        )

        def ranges(within: list[tuple[str, int, int]]) -> np.ndarray:
            moved = [
                (start_of[user] + start, start_of[user] + stop) for user, start, stop in within
            ]
            return np.array(moved, np.int64).reshape(-1, 2)

        train = []
        for user in users:
            segments = self._train.get(user, [])
            if train_on_context and not segments:
                # What comes after a user's first held-out target is never trained on.
                segments = [part for part in self._context.get(user, []) if part[0] == 0]
            train.extend((user, start, stop) for start, stop in segments)
        given = GivenSplit(
            train_sequences=ranges(train),
            valid=ranges(self._views["valid"]),
            test=ranges(self._views["test"]),
        )
        return interactions, given, dict(self._counts)


def _find(folder: str, name: str, pattern: str, what: str) -> Path:
    return input_file(folder, name, what) if name else only_file(folder, pattern, what)


class _WrongRowError(Exception):
    """A row that is left out, or ends the reading; args: reason and message."""


def _read_rows(
    path: Path, place_of: dict[str, int], sid_of: dict[str, str], bad_rows: BadRows
) -> list[tuple[str, list[int], int]]:
    """Rows as (user, places of the history's items, place of the target)."""
    table = CsvTable(str(path), path.name)
    there = table.columns()
    if not there:
        raise ValueError(f"{path}: not a CSV file that can be read: it is empty")
    for column in _REQUIRED:
        if column not in there:
            raise ValueError(
                f"{path}: no column {column!r}; it needs {', '.join(_REQUIRED)}, and has "
                f"{listed(there)}"
            )
    columns = [column for column in (*_REQUIRED, *_PARALLEL, "item_sid") if column in there]
    rows = []
    number = 0
    for block in table.rows(dict.fromkeys(columns, "text")):
        problems = [problem for problem in block.problems if problem.reason != "no_rows"]
        flush(problems, bad_rows)
        # Rows that could not be read count as well.
        skipped = np.searchsorted([problem.line for problem in problems], block.line)
        for place, row in enumerate(block.frame.iter_rows(named=True)):
            where = f"{path.name}, data row {number + place + int(skipped[place]) + 1}"
            try:
                rows.append(_row(row, where, place_of, sid_of))
            except _WrongRowError as error:
                bad_rows.add(*error.args)
        number += len(block.line) + len(problems)
    if not rows:
        left = "; none is left" if bad_rows.counts else " but no rows"
        raise ValueError(f"{path}: the file holds a header{left}{bad_rows.in_words()}")
    return rows


def _row(
    row: dict[str, str], where: str, place_of: dict[str, int], sid_of: dict[str, str]
) -> tuple[str, list[int], int]:
    history = _list(row, "history_item_id", where)
    if not history:
        raise _WrongRowError(
            "empty_history",
            f"{where}: history_item_id is empty; a row needs at least one item",
        )
    for column in _PARALLEL:
        if column not in row:
            continue
        values = _list(row, column, where)
        if len(values) != len(history):
            raise _WrongRowError(
                "lists_differ",
                f"{where}: {column} has {len(values)} entries, history_item_id has "
                f"{len(history)}; they must be as many",
            )
        if column == "history_item_sid":
            for item, sid in zip(history, values, strict=True):
                _check_sid(where, column, str(item), sid, sid_of)
    for column in ("user_id", "item_id"):
        fault = id_fault(row[column])
        if fault is not None:
            raise _WrongRowError(fault[0], f"{where}: {column} {fault[1]}; every row needs one")
    if row.get("item_sid"):
        _check_sid(where, "item_sid", row["item_id"], row["item_sid"], sid_of)
    places = []
    for column, item in [
        *(("history_item_id", item) for item in history),
        ("item_id", row["item_id"]),
    ]:
        place = place_of.get(str(item))
        if place is None:
            raise _WrongRowError(
                "unknown_item",
                f"{where}: {column} has item {item!r:.80}, which the catalogue lacks",
            )
        places.append(place)
    return row["user_id"], places[:-1], places[-1]


def _list(row: dict[str, str], column: str, where: str) -> list[Any]:
    values = text_list(row[column])
    if values is None:
        raise _WrongRowError(
            "not_a_list",
            f"{where}: {column} is {row[column]!r:.200}; it must be a list such as [3, 7]",
        )
    return values


def _check_sid(where: str, column: str, item: str, sid: Any, sid_of: dict[str, str]) -> None:
    if sid_of.get(item) != sid:
        raise _WrongRowError(
            "wrong_sid",
            f"{where}: {column} gives item {item!r:.80} the SID {sid!r:.80}; the index "
            f"says {sid_of.get(item)!r:.80}",
        )


def _read_index(path: Path) -> dict[str, str]:
    index = read_mapping(path, "SIDs")
    for item, tokens in index.items():
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ValueError(
                f"{path}: the SID of item {item!r:.80} is {tokens!r:.80}; it must be a list such "
                'as ["<a_12>", "<b_3>", "<c_200>"]'
            )
    return {item: "".join(tokens) for item, tokens in index.items()}


def _read_items(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """The catalogue, in the file's order."""
    check_carried(str(path), columns, _ATTRIBUTES)
    catalogue = read_mapping(path, "their fields")
    rows = []
    for item, fields in catalogue.items():
        if not isinstance(fields, dict) or not isinstance(fields.get("title"), str):
            raise ValueError(
                f"{path}: item {item!r:.80} has no title; it needs an object with a 'title' and, "
                "if known, 'description', 'brand' and 'categories'"
            )
        description = _strings(fields.get("description"))
        brand = [str(fields["brand"])] if fields.get("brand") else []
        categories = _strings(fields.get("categories"))
        rows.append(
            {
                "raw_item_id": item,
                "title": fields["title"],
                "text": "\n".join(
                    part for part in [fields["title"], *brand, *categories, *description] if part
                ),
                "attributes": [f"brand={name}" for name in brand]
                + [f"category={name}" for name in categories],
                **{name: _carried(fields.get(name), path, item, name) for name in columns},
            }
        )
    for name in columns:
        if not any(name in fields for fields in catalogue.values()):
            raise ValueError(
                f"{path}: no item has the field {name!r}, which source.columns names; the first "
                f"has {listed(list(next(iter(catalogue.values()), {})))}"
            )
    frame = pl.DataFrame(rows, schema={**ITEM_SCHEMA, **dict.fromkeys(columns, pl.String)})
    return frame.with_columns(typed(frame[name]) for name in columns)


def _carried(value: Any, path: Path, item: str, name: str) -> str | None:
    """A field's value as text, None for one that is missing."""
    if isinstance(value, list | dict):
        raise ValueError(
            f"{path}: item {item!r:.80}: {name!r} is {value!r:.80}; source.columns names it, so it "
            "must be a text or a number"
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    return (str(value).strip() or None) if value is not None else None


def _strings(value: Any) -> list[str]:
    """Strings of a field that is a list, a list written as text, or plain text."""
    if isinstance(value, str):
        spelled = text_list(value)
        value = [value] if spelled is None else spelled
    if not isinstance(value, list):
        return []
    return [text for text in (str(entry).strip() for entry in value) if text]
