"""How the items of a catalogue are written: by SID and by title."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from minirec.sids import SidTable
from pipelines.batches.examples import PreparedLog
from pipelines.text.answers import sid_tuples
from pipelines.text.tokenizer import TextTokenizer


class PreparedItems(PreparedLog, Protocol):
    """What text is made of: a prepared log whose catalogue has titles."""

    @property
    def items(self) -> pl.DataFrame:
        """One row an item, in the order of `item_id`; `title` is read."""
        ...

    @property
    def raw_item_ids(self) -> list[str]:
        """What the log called each item."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ItemTexts:
    """The catalogue's items as text.

    Attributes:
        sid: every item's SID, such as `<a_12><b_3><c_200>`.
        title: every item's title in one line, in which nothing reads as a token of the tokenizer's
            own; empty for an item without one.
        sid_group: int64 [N]; items of one SID have the same number.
        title_group: int64 [N]; items of one title have the same number, -1 is an item without one.
    """

    sid: Sequence[str]
    title: Sequence[str]
    sid_group: Int[np.ndarray, " N"]
    title_group: Int[np.ndarray, " N"]

    def of(self, kind: Literal["sid", "title"]) -> Sequence[str]:
        """Returns the SIDs or the titles."""
        return self.sid if kind == "sid" else self.title

    def written(self, kind: Literal["sid", "title"]) -> Bool[np.ndarray, " N"]:
        """Returns which items can be written so: all by SID, those with a title by title."""
        return np.ones(len(self.sid), bool) if kind == "sid" else self.title_group >= 0

    def alike(
        self, one: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"]
    ) -> Bool[np.ndarray, " n"]:
        """Returns which pairs of items share their SID or their title; an item does with itself."""
        return (self.sid_group[one] == self.sid_group[other]) | (
            (self.title_group[one] == self.title_group[other]) & (self.title_group[one] >= 0)
        )


def item_texts(prepared: PreparedItems, table: SidTable, tokenizer: TextTokenizer) -> ItemTexts:
    """Returns the items of a prepared log as text.

    Raises:
        ValueError: the SID table is of another catalogue, or the tokenizer lacks a SID token.
    """
    raw = prepared.raw_item_ids
    if list(table.raw_item_ids) != raw:
        place = next(
            (i for i, (a, b) in enumerate(zip(table.raw_item_ids, raw, strict=False)) if a != b),
            min(len(raw), table.num_items),
        )
        raise ValueError(
            f"the SID table has {table.num_items} items, the prepared data {len(raw)}, and they "
            f"differ from item {place} on: the table's rows must follow the prepared catalogue"
        )
    sids = sid_tuples(table)
    tokenizer.ids(sorted({name for sid in sids for name in sid}))  # raises for one that it lacks
    titles = [tokenizer.plain(title or "") for title in prepared.items["title"].to_list()]
    _, title_group = np.unique(np.array(titles, object), return_inverse=True)
    has_title = np.array([bool(title) for title in titles])
    _, sid_group = np.unique(table.codes, axis=0, return_inverse=True)
    return ItemTexts(
        ["".join(sid) for sid in sids],
        titles,
        sid_group.astype(np.int64).reshape(-1),
        np.where(has_title, title_group, -1).astype(np.int64),
    )
