"""Watch lists and SIDs, as `launch.tasks` reads them, as records to evaluate on.

A known user trains on what is left of the list, and is asked for some of the entries that were held
out; of a user who was held out the rest of the list is the history, and nothing is trained on. Each
target has its history as rows of its own, since an entry that is asked for must not stand in
another one's history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import (
    INTERACTION_SCHEMA,
    ITEM_SCHEMA,
    TICKS_PER_SECOND,
    FramePart,
    GivenSplit,
    RawDataset,
)
from pipelines.text.watch_catalogue import WatchCatalogue, read_catalogue, read_sids
from pipelines.text.watch_config import MARKS, NO_ORDER, WatchConfig
from pipelines.text.watch_lists import TEST, TRAIN, VALID, Lists, hold_out, read_lists


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of the source.

    Attributes:
        folder: where the two files lie.
        lists: the settings of `pipelines.text.watch_config.WatchConfig` that say how lists are
            read and what of them is held out.
        targets: entries that a user is asked for at most, in each of validation and test.
    """

    folder: str
    lists: Mapping[str, Any]
    targets: int = 4

    def __post_init__(self) -> None:
        if self.targets < 1:
            raise ValueError(f"source.targets={self.targets}: must be at least 1")


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Reads the lists and lays out what is asked of whom.

    Raises:
        ValueError: see `read_catalogue` and `read_lists`.
    """
    del bad_rows  # A row that is wrong is an error here: the rows of the tasks know no other way.
    watch = WatchConfig.from_mapping({"folder": config.folder, **config.lists})
    catalogue, counts = read_catalogue(watch, read_sids(watch))
    lists, more = read_lists(watch, catalogue)
    interactions, given = _views(watch, catalogue, lists, config.targets)
    return RawDataset(
        (FramePart(interactions),),
        _items(catalogue),
        inputs={
            watch.source_db: watch.database,
            watch.semantic_ids_path: watch.sid_file,
        },
        has_times=False,
        has_order=watch.order_by != NO_ORDER,
        event_types=MARKS,
        given_split=given,
        counts={f"catalogue_{name}": value for name, value in counts.items()} | more,
    )


def _views(
    config: WatchConfig, catalogue: WatchCatalogue, lists: Lists, most: int
) -> tuple[pl.DataFrame, GivenSplit]:
    role, held = hold_out(lists, config.hold_out, config.seed)
    answers = np.isin(lists.mark, [MARKS.index(name) for name in config.task_b_mask_marks])
    rows: list[np.ndarray] = []  # places among the lists' entries
    users: list[np.ndarray] = []
    ranges: dict[int, list[tuple[int, int]]] = {TRAIN: [], VALID: [], TEST: []}
    size = 0

    def add(user: int, part: np.ndarray) -> tuple[int, int]:
        nonlocal size
        rows.append(part)
        users.append(np.full(len(part), user))
        size += len(part)
        return size - len(part), size

    for user in range(len(lists.users)):
        places = np.arange(lists.offsets[user], lists.offsets[user + 1])
        known, out = places[held[places] == TRAIN], places[held[places] != TRAIN]
        if not len(known):
            continue
        if role[user] == TRAIN:
            ranges[TRAIN].append(add(user, known))
        for split in (VALID, TEST):
            if role[user] == TRAIN:
                asked = out[held[out] == split]
            else:
                asked = out if role[user] == split else out[:0]
            # The lists' order within what was drawn is that of a hash, or of time: the first will
            # do, and the same ones come again.
            for target in asked[answers[asked]][:most].tolist():
                first, stop = add(user, np.append(known, target))
                ranges[split].append((first, stop - 1))
    place, user = np.concatenate(rows), np.concatenate(users)
    ids = [str(one) for one in catalogue.item_id.tolist()]
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    within = np.arange(len(user)) - np.repeat(starts, np.diff(np.append(starts, len(user))))
    frame = pl.DataFrame(
        {
            "user": pl.Series([str(one) for one in lists.users.tolist()]).gather(user),
            "item": pl.Series(ids).gather(lists.item[place]),
            "time": within * TICKS_PER_SECOND,
            "event": lists.mark[place].astype(np.int32),
        },
        schema=INTERACTION_SCHEMA,
    )

    def array(pairs: list[tuple[int, int]]) -> np.ndarray:
        return np.array(pairs, np.int64).reshape(-1, 2)

    return frame, GivenSplit(array(ranges[TRAIN]), array(ranges[VALID]), array(ranges[TEST]))


def _items(catalogue: WatchCatalogue) -> pl.DataFrame:
    facts, parts = catalogue.facts, catalogue.parts
    rows = []
    for item, number in enumerate(catalogue.item_id.tolist()):
        told = [facts[name][item] for name in ("title", "genres", "studios", "synopsis")]
        attributes = [
            f"{name}={value}" for name in ("genres", "studios") for value in parts[name][item]
        ]
        attributes += [
            f"{name}={facts[name][item]}" for name in ("type", "source") if facts[name][item]
        ]
        rows.append(
            {
                "raw_item_id": str(number),
                "title": facts["title"][item],
                "text": "\n".join(text for text in told if text),
                "attributes": attributes,
            }
        )
    return pl.DataFrame(rows, schema=ITEM_SCHEMA)
