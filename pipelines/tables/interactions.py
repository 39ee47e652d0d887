"""What a source gives: interactions, the catalogue of items and, where it has one, a split.

A log may be larger than memory, so a source gives its interactions as parts (a file each, say)
that are read chunk by chunk. A part can be sent to another process: it says where the rows lie,
and holds them only where a source made them itself (`FramePart`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from jaxtyping import Int

from pipelines.tables.bad_rows import BadRows

# Of `time`, from a log's rows to the split of its records, whatever the log counts in: what is
# dropped before the order is known is missed there. 2^63 of them reach to the year 2262.
TICKS_PER_SECOND = 1_000_000_000

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


class Part(Protocol):
    """A piece of a log that is read by itself, such as a file; small enough to be pickled."""

    @property
    def name(self) -> str:
        """What errors and the manifest call it; does not depend on where it lies."""
        ...

    def chunks(self, bad_rows: BadRows) -> Iterator[pl.DataFrame]:
        """Yields the part's interactions in order, some million rows at a time at most.

        A chunk has the columns `user` and `item` (String, or Int64 where the file holds integers:
        the raw id is then the number in decimal), `time` Int64 in nanoseconds since 1970,
        `event` Int32, and `line` Int64: what a person finds the row by in the file, from 1. None of
        them has nulls.

        Args:
            bad_rows: is told of every row that is wrong: raises, or counts it, and the row is
                left out.

        Raises:
            ValueError: a mistake in the data; the message names file, line, field and value.
        """
        ...


@dataclasses.dataclass(frozen=True)
class FramePart:
    """A log in memory: what a source has made or put together itself.

    Attributes:
        frame: one row an interaction, columns `INTERACTION_SCHEMA`.
        name: what errors call it.
    """

    frame: pl.DataFrame
    name: str = "interactions"

    def chunks(self, bad_rows: BadRows) -> Iterator[pl.DataFrame]:
        """Yields the frame, whole, once its columns are checked.

        Raises:
            ValueError: a wrong column or a missing value.
        """
        del bad_rows  # The source has seen to them.
        check_frame(self.name, self.frame, INTERACTION_SCHEMA)
        if not self.frame.is_empty():
            yield self.frame.with_columns(
                pl.int_range(1, self.frame.height + 1, dtype=pl.Int64).alias("line")
            )


@dataclasses.dataclass(frozen=True)
class RawDataset:
    """A log and its catalogue as a source found them.

    Attributes:
        parts: the log, in order. Interactions of equal user and time are taken in this order.
        items: the catalogue, one row an item, columns `ITEM_SCHEMA` and, behind them, those that
            the source carries along (String, Int64 or Float64, nulls allowed); `item_id` will
            count its rows. None: the catalogue is the items of the log, sorted by `raw_item_id`,
            without title, text or attributes.
        inputs: the files that were read, by a name that does not depend on where they lie.
        has_times: whether `time` is a real time that users can be compared by; where it is not,
            it is the place in the user's sequence, as seconds, or 0 throughout.
        has_order: whether a user's events have an order at all; where nothing tells one, they are
            in a drawn one.
        event_types: names of the event types; `event` indexes them.
        event_weights: what an event of each type counts as a training target, 0 or more; empty:
            1 each.
        given_split: the split that the data set brings along, if it does.
        counts: what the source counted while reading, for the manifest.
    """

    parts: tuple[Part, ...]
    items: pl.DataFrame | None
    inputs: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    has_times: bool = True
    has_order: bool = True
    event_types: tuple[str, ...] = ("interaction",)
    event_weights: tuple[float, ...] = ()
    given_split: GivenSplit | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.event_weights and len(self.event_weights) != len(self.event_types):
            raise ValueError(
                f"event_weights has {len(self.event_weights)} entries, event_types "
                f"{len(self.event_types)} ({', '.join(self.event_types)}); they must be as many"
            )
        for name, weight in zip(self.event_types, self.event_weights, strict=False):
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(
                    f"event_weights gives {name!r} the weight {weight}; it must be finite and 0 or "
                    "more"
                )

    @functools.cached_property
    def interactions(self) -> pl.DataFrame:
        """The whole log in memory, columns `INTERACTION_SCHEMA`; for small logs and tests.

        Raises:
            ValueError: a mistake in the data.
        """
        bad_rows = BadRows("error")
        chunks = [
            chunk.select(pl.col(name).cast(kind) for name, kind in INTERACTION_SCHEMA.items())
            for part in self.parts
            for chunk in part.chunks(bad_rows)
        ]
        return pl.concat(chunks) if chunks else pl.DataFrame(schema=INTERACTION_SCHEMA)


def check_frame(name: str, frame: pl.DataFrame, schema: pl.Schema) -> None:
    """Checks a frame's columns.

    Raises:
        ValueError: they are not those of `schema`, or a value is missing.
    """
    if frame.schema != schema:
        raise ValueError(
            f"{name} have the columns {dict(frame.schema)}; they must be {dict(schema)}"
        )
    for column, nulls in frame.null_count().row(0, named=True).items() if len(frame) else ():
        if nulls:
            row = int(frame[column].is_null().arg_true()[0])
            raise ValueError(
                f"{name}: row {row} has no {column} ({nulls} rows have none); every row needs one"
            )
