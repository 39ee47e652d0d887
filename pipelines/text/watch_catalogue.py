"""The items that rows are made of: those with a SID, and what is known of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Int64

from minirec.sids.sid_lines import SidFields, SidLines, read_sid_lines
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.sqlite_table import SqliteTable
from pipelines.tables.table import Kind, check_columns, flush
from pipelines.text.watch_config import FACTS, Columns, WatchConfig

Tell = Callable[[str], None]
_LISTS = ("genres", "studios", "themes")
KINDS = ("genres", "studios", "era", "type")
"""What liked items may share."""


@dataclasses.dataclass(frozen=True, eq=False)
class WatchCatalogue:
    """The items, by ascending id.

    Attributes:
        item_id: int64 [N].
        sids: [N] each item's SID as one text.
        facts: by name, what is known of each item as text; "" where it is not.
        parts: by name of those facts that are lists, each item's values.
        rows: place of each item in the SID file.
    """

    item_id: Int64[np.ndarray, " N"]
    sids: tuple[str, ...]
    facts: Mapping[str, Sequence[str]]
    parts: Mapping[str, Sequence[tuple[str, ...]]]
    rows: Int64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.item_id)

    @functools.cached_property
    def shareable(self) -> dict[str, list[tuple[str, ...]]]:
        """By kind of `KINDS`, the values of each item; an era is a decade, such as "1990s"."""
        found = {name: list(self.parts[name]) for name in ("genres", "studios")}
        years = self.facts["year"]
        found["era"] = [
            (f"{year[:-1]}0s",) if len(year) == 4 and year.isdecimal() else () for year in years
        ]
        found["type"] = [(value,) if value else () for value in self.facts["type"]]
        return {kind: found[kind] for kind in KINDS}


def read_sids(config: WatchConfig) -> SidLines:
    """Returns the SIDs that the config names; see `minirec.sids.sid_lines`."""
    return read_sid_lines(config.sid_file, SidFields(item_id=config.sid_id))


def read_catalogue(
    config: WatchConfig, sids: SidLines, tell: Tell = lambda text: None
) -> tuple[WatchCatalogue, dict[str, int]]:
    """Returns the items that have a SID, with what is known of them, and counts.

    An item without metadata has the title that the SID file gives it; a list may name it all the
    same.

    Args:
        config: names file, table and columns.
        sids: the SIDs.
        tell: is told of the counts.

    Raises:
        ValueError: the file, the table or a column is missing, an id is no whole number or stands
            there twice, or no item has both; the message names file, table, row and value.
    """
    columns = config.columns
    ids, values = _read_items(str(config.database), columns)
    rows = np.argsort(sids.item_id, kind="stable")
    item_id = sids.item_id[rows]
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids[order], item_id), len(ids) - 1)
    place = np.where(ids[order][place] == item_id, order[place], -1)
    with_both = int(np.count_nonzero(place >= 0))
    counts = {
        "items": len(rows),
        "items_with_metadata": with_both,
        "metadata_without_sid": len(ids) - with_both,
    }
    tell(f"{len(ids):,} rows, {with_both:,} of them of the {len(rows):,} items with a SID")
    if not with_both:
        raise ValueError(
            f"{config.database}, table {columns.items!r}: no {columns.item_id} stands in "
            f"{config.sid_file} (its first is {int(sids.item_id[0])}); do the two belong "
            "together?"
        )
    missing = {"", *columns.missing}

    def clean(text: str | None) -> str:
        text = " ".join((text or "").split())
        return "" if text in missing else text

    def texts(name: str) -> list[str]:
        column = values.get(name)
        if column is None:
            return [""] * len(rows)
        return [clean(column[row]) if row >= 0 else "" for row in place.tolist()]

    facts = {name: texts(name) for name in FACTS}
    spare = zip(texts("title_else"), (sids.names[row] for row in rows.tolist()), strict=True)
    facts["title"] = [
        one or other or clean(last)
        for one, (other, last) in zip(facts["title"], spare, strict=True)
    ]
    parts = {name: [_parts(text, columns) for text in facts[name]] for name in _LISTS}
    for name in _LISTS:
        facts[name] = [", ".join(values) for values in parts[name]]
    picked = tuple(sids.sids[row] for row in rows.tolist())
    return WatchCatalogue(item_id, picked, facts, parts, rows), counts


def _parts(text: str, columns: Columns) -> tuple[str, ...]:
    if not columns.separator:
        return (text,) if text else ()
    pieces = (piece.strip() for piece in text.split(columns.separator.strip() or columns.separator))
    return tuple(dict.fromkeys(piece for piece in pieces if piece and piece not in columns.missing))


def _read_items(path: str, columns: Columns) -> tuple[np.ndarray, dict[str, list[str | None]]]:
    """Returns ids and the texts of all columns that the config names, in the table's order."""
    named = {
        name: column for name in (*FACTS, "title_else") if (column := getattr(columns, name, ""))
    }
    where = f"{path}, table {columns.items!r}"
    table = SqliteTable(path, where, table=columns.items)
    wanted = [columns.item_id, *named.values()]
    check_columns(table, wanted, "tasks.columns")
    frames, lines = [], []
    kinds: dict[str, Kind] = {}
    kinds.update((column, "text") for column in named.values())
    kinds[columns.item_id] = "id"
    for rows in table.rows(kinds):
        flush(rows.problems, BadRows("error"))
        frames.append(rows.frame.with_columns(pl.col(c).cast(pl.String) for c in named.values()))
        lines.append(rows.line)
        whole(rows.frame[columns.item_id], rows.line, where, columns.item_id)
    frame = pl.concat(frames)
    ids = frame[columns.item_id].to_numpy()
    line = np.concatenate(lines)
    _, first = np.unique(ids, return_index=True)
    if len(first) < len(ids):
        again = np.setdiff1d(np.arange(len(ids)), first)[0]
        raise ValueError(
            f"{where}, row {line[again]}: {columns.item_id} is {ids[again]}, which an earlier row "
            "has; an item stands there once"
        )
    return ids, {name: frame[column].to_list() for name, column in named.items()}


def whole(values: pl.Series, line: np.ndarray, where: str, column: str) -> Int64[np.ndarray, " n"]:
    """Returns a column of whole numbers.

    Args:
        values: the column as a table gives it.
        line: where each row is found.
        where: file and table, for errors.
        column: its name, for errors.

    Raises:
        ValueError: a value is missing or is no whole number; the message names row and value.
    """
    if values.dtype == pl.Int64 and not values.null_count():
        return values.to_numpy()
    numbers = values.cast(pl.Float64, strict=False)
    wrong = (numbers.is_null() | (numbers != numbers.round())).fill_null(True)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise ValueError(
            f"{where}, row {line[row]}: {column} is {values[row]!r:.80}; must be a whole number"
        )
    return numbers.cast(pl.Int64).to_numpy()
