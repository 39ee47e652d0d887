"""What a source gives: interactions, the catalogue of items and, where it has one, a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

INTERACTION_SCHEMA = pl.Schema(
    {"user": pl.String, "item": pl.String, "time": pl.Int64, "event": pl.Int32}
)
ITEM_SCHEMA = pl.Schema(
    {
        "raw_item_id": pl.String,
        "title": pl.String,
        "text": pl.String,
        "attributes": pl.List(pl.String),
    }
)


@dataclasses.dataclass(frozen=True)
class GivenSplit:
    """A split that the data set brings along, in rows of its interactions.

    The interactions it belongs to are grouped by user, oldest first, and are used in that order.

    Attributes:
        train_sequences: `[S, 2]` (start, stop): each training interaction lies in exactly one.
        valid: `[n, 2]` (start, stop): the history is the rows `start:stop`, the target row `stop`.
        test: the same for the test split.
    """

    train_sequences: Int[np.ndarray, "S 2"]
    valid: Int[np.ndarray, "n 2"]
    test: Int[np.ndarray, "m 2"]


@dataclasses.dataclass(frozen=True)
class RawDataset:
    """A log and its catalogue as a source read them.

    Attributes:
        interactions: one row an interaction, columns `INTERACTION_SCHEMA`: raw user and item ids,
            time in seconds (or the place in the user's sequence where `has_times` is false) and
            the index of the event's type. Rows of equal user and time are taken in this order.
        items: the catalogue, one row an item, columns `ITEM_SCHEMA`; `item_id` will count its rows.
        inputs: the files that were read, by a name that does not depend on where they lie.
        has_times: whether `time` is a real time that users can be compared by.
        event_types: names of the event types; `event` indexes them.
        given_split: the split that the data set brings along, if it does.
        counts: what the source counted while reading, for the manifest.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    inputs: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    has_times: bool = True
    event_types: tuple[str, ...] = ("interaction",)
    given_split: GivenSplit | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def check(self) -> None:
        """Checks what every later step relies on.

        Raises:
            ValueError: a wrong column, an empty log, a missing value, a duplicate in the
                catalogue, an item in the log that the catalogue lacks, or an unknown event type.
        """
        for name, frame, schema in (
            ("interactions", self.interactions, INTERACTION_SCHEMA),
            ("items", self.items, ITEM_SCHEMA),
        ):
            if frame.schema != schema:
                raise ValueError(
                    f"{name} have the columns {dict(frame.schema)}; they must be {dict(schema)}"
                )
            if frame.is_empty():
                raise ValueError(f"the source gave no {name}: there is nothing to prepare")
            for column, nulls in frame.null_count().row(0, named=True).items():
                if nulls:
                    row = int(frame[column].is_null().arg_true()[0])
                    raise ValueError(
                        f"{name}: row {row} has no {column} ({nulls} rows have none); "
                        "every row needs one"
                    )
        ids = self.items["raw_item_id"]
        if ids.n_unique() != len(ids):
            twice = ids.filter(ids.is_duplicated())[0]
            raise ValueError(
                f"the catalogue lists item {twice!r} more than once; "
                "every item needs exactly one row"
            )
        unknown = self.interactions.join(
            self.items, left_on="item", right_on="raw_item_id", how="anti"
        )
        if not unknown.is_empty():
            row = unknown.row(0, named=True)
            raise ValueError(
                f"user {row['user']!r} has item {row['item']!r}, which the catalogue lacks "
                f"({unknown['item'].n_unique()} such items); add it to the catalogue or drop its "
                "interactions"
            )
        event = self.interactions["event"].to_numpy()
        if event.min() < 0 or event.max() >= len(self.event_types):
            raise ValueError(
                f"event types range over {event.min()}..{event.max()}, but there are "
                f"{len(self.event_types)}: {self.event_types}"
            )
