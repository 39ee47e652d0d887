"""A catalogue from tables: which column is what, and every item once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import polars as pl

from pipelines.sources.carried import check_carried, clean_carried, typed
from pipelines.sources.checked import Checked
from pipelines.sources.ids import clean_ids
from pipelines.tables import Kind, Table
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import ITEM_SCHEMA
from pipelines.tables.table import check_columns


@dataclasses.dataclass(frozen=True)
class ItemColumns:
    """Which column of a catalogue is what.

    Attributes:
        item_id: column of item ids.
        title: column of titles; "" for none.
        text: columns that, after the title, make up the text, a line each.
        attributes: columns whose values become attributes, as `column=value`.
        separator: parts an attribute's text into several values; "" for one value.
        columns: columns that are kept as they are; see `pipelines.sources.carried`.
    """

    item_id: str
    title: str = ""
    text: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    separator: str = ""
    columns: tuple[str, ...] = ()

    def kinds(self) -> dict[str, Kind]:
        """Returns the columns that are read, and what for."""
        kinds: dict[str, Kind] = {name: "text" for name in (self.title, *self.text) if name}
        for name in self.attributes:
            kinds[name] = "list"
        for name in self.columns:
            kinds[name] = "plain"
        kinds[self.item_id] = "id"
        return kinds


def read_items(tables: Sequence[Table], columns: ItemColumns, bad_rows: BadRows) -> pl.DataFrame:
    """Returns the catalogue, in the order of the tables: `ITEM_SCHEMA` and `columns.columns`.

    Args:
        tables: its files.
        columns: which column is what.
        bad_rows: is told of rows without an id and of items that are listed again, which are left
            out.

    Raises:
        ValueError: a column is missing or cannot be kept, or a mistake in a row.
    """
    frames, lines = [], []
    for table in tables:
        check_carried(table.path, columns.columns, columns.attributes)
        check_columns(table, columns.kinds(), "the catalogue")
        for rows in table.rows(columns.kinds()):
            checked = Checked(table, rows)
            if len(checked.frame):
                clean_ids(checked, columns.item_id)
                clean_carried(checked, columns.columns)
                frames.append(_item_frame(checked.frame, columns))
                lines.append((table, checked.line))
            checked.flush(bad_rows)
    if not frames:
        return pl.DataFrame(schema={**ITEM_SCHEMA, **dict.fromkeys(columns.columns, pl.String)})
    items = pl.concat(frames)
    again = items["raw_item_id"].is_first_distinct().not_()
    if again.any():
        _report_duplicates(items["raw_item_id"], again.to_numpy(), lines, bad_rows)
        items = items.filter(again.not_())
    return items.with_columns(typed(items[name]) for name in columns.columns)


def _report_duplicates(
    ids: pl.Series,
    again: np.ndarray,
    lines: Sequence[tuple[Table, np.ndarray]],
    bad_rows: BadRows,
) -> None:
    second = int(again.argmax())
    first = int((ids == ids[second]).arg_true()[0])
    ends = np.cumsum([len(line) for _, line in lines])

    def where(place: int) -> str:
        piece = int(np.searchsorted(ends, place, side="right"))
        table, line = lines[piece]
        return f"{table.name}, {table.place} {line[place - (ends[piece] - len(line))]}"

    bad_rows.add(
        "duplicate_item",
        f"{where(second)}: item {ids[second]!r} is listed already in {where(first)}; every item "
        "needs exactly one row",
        int(again.sum()),
    )


def _item_frame(frame: pl.DataFrame, columns: ItemColumns) -> pl.DataFrame:
    title = (
        _as_text(frame[columns.title]) if columns.title else pl.repeat("", len(frame), eager=True)
    )
    texts = [title, *(_as_text(frame[name]) for name in columns.text if name != columns.title)]
    attributes = [_as_attributes(frame[name], columns.separator) for name in columns.attributes]
    named = pl.DataFrame(
        [text.alias(f"text{place}") for place, text in enumerate(texts)]
        + [entry.alias(f"list{place}") for place, entry in enumerate(attributes)]
    )
    text = pl.concat_str(
        [
            pl.when(pl.col(f"text{place}") != "").then(pl.col(f"text{place}"))
            for place in range(len(texts))
        ],
        separator="\n",
        ignore_nulls=True,
    )
    empty = pl.lit([], dtype=pl.List(pl.String))
    lists = [pl.col(f"list{place}") for place in range(len(attributes))]
    return named.select(
        frame[columns.item_id].cast(pl.String).alias("raw_item_id"),
        title.alias("title"),
        text.alias("text"),
        (pl.concat_list(lists) if lists else empty).alias("attributes"),
        *(frame[name].cast(pl.String) for name in columns.columns),
    ).cast({**ITEM_SCHEMA})


def _as_text(values: pl.Series) -> pl.Series:
    """Texts, a list's entries a line each."""
    if isinstance(values.dtype, pl.List):
        values = values.cast(pl.List(pl.String)).list.join("\n", ignore_nulls=True)
    return values.cast(pl.String).fill_null("").str.strip_chars()


def _as_attributes(values: pl.Series, separator: str) -> pl.Series:
    """Lists of `column=value`."""
    if not isinstance(values.dtype, pl.List):
        texts = values.cast(pl.String)
        lists = (
            texts.str.split(separator)
            if separator
            else pl.DataFrame(texts).select(pl.concat_list(texts.name)).to_series()
        )
    else:
        lists = values.cast(pl.List(pl.String))
        if separator:
            lists = lists.list.join(separator, ignore_nulls=True).str.split(separator)
    entry = pl.element().str.strip_chars()
    trimmed = lists.fill_null([]).list.eval(entry.filter(entry.is_not_null() & (entry != "")))
    return trimmed.list.eval(pl.concat_str(pl.lit(f"{values.name}="), pl.element()))
