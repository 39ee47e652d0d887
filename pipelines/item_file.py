"""The catalogue from a file of its own, in any format that a log may have."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipelines.bad_rows import BadRows
from pipelines.columns import clean_ids, tell
from pipelines.interactions import ITEM_SCHEMA
from pipelines.readers import JsonLines, Reader, reader_for


@dataclasses.dataclass(frozen=True)
class ItemColumns:
    """Which column of the file is what.

    Attributes:
        item_id: column of the item's id, as the log has it.
        title: column of what people call it; empty: none.
        text: columns of what describes it beside the title.
        attributes: columns of what it belongs to, such as its brand; a value may be a list, or
            text that `separator` divides.
        separator: see `attributes`; empty: a value is one attribute.
        separators: those of columns that differ.
    """

    item_id: str
    title: str = ""
    text: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    separator: str = "|"
    separators: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, each once."""
        used = (self.item_id, self.title, *self.text, *self.attributes)
        return tuple(dict.fromkeys(name for name in used if name))


def read_items(
    path: Path, columns: ItemColumns, bad_rows: BadRows, reader: Reader | None = None
) -> pl.DataFrame:
    """Returns the catalogue, columns `ITEM_SCHEMA`, in the order of the file.

    `text` is the title and the text columns, one behind the other; an attribute is written
    `column=value`.

    Args:
        path: the file.
        columns: which is what.
        bad_rows: is told of rows without a sound id, and of an id's second row.
        reader: reads the file; None: by its name.

    Raises:
        ValueError: a mistake in the file.
    """
    reader = reader or reader_for(path.name)
    if isinstance(reader, JsonLines):
        reader = dataclasses.replace(reader, lists=True)
    frames = []
    for frame in reader.frames(path, columns.names, bad_rows):
        ids, problems = clean_ids(path, frame[columns.item_id], "item")
        sound = tell(path, frame["line"], problems, {"item": frame[columns.item_id]}, bad_rows)
        frame = _meanings(frame.with_columns(ids.cast(pl.String).alias("raw_item_id")), columns)
        frames.append(frame if sound is None else frame.filter(sound))
    if not frames or not sum(map(len, frames)):
        raise ValueError(f"{path}: no items are left: every row is bad")
    return _without_repeats(path, pl.concat(frames), bad_rows)


def _without_repeats(path: Path, items: pl.DataFrame, bad_rows: BadRows) -> pl.DataFrame:
    again = ~items["raw_item_id"].is_first_distinct()
    if again.any():
        second = items.filter(again).row(0, named=True)
        first = items.filter(pl.col("raw_item_id") == second["raw_item_id"])["line"][0]
        bad_rows.add(
            "duplicate_item",
            f"{path}, line {second['line']}: item {second['raw_item_id']!r} has a row already, "
            f"line {first}; every item has one",
            int(again.sum()),
        )
        items = items.filter(~again)
    return items.drop("line").cast(ITEM_SCHEMA)


def _meanings(frame: pl.DataFrame, columns: ItemColumns) -> pl.DataFrame:
    def text(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.String).fill_null("").str.strip_chars()

    for name in (columns.title, *columns.text):
        if name and isinstance(frame.schema[name], pl.List):
            frame = frame.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(" "))
    attributes = [
        _attributes(frame[name], columns.separators.get(name, columns.separator))
        for name in columns.attributes
    ]
    described = [text(name) for name in (columns.title, *columns.text) if name]
    return frame.select(
        "raw_item_id",
        (text(columns.title) if columns.title else pl.lit("")).alias("title"),
        (
            pl.concat_str(described, separator=" ").str.strip_chars() if described else pl.lit("")
        ).alias("text"),
        (pl.concat_list(attributes) if attributes else pl.lit([], dtype=pl.List(pl.String))).alias(
            "attributes"
        ),
        "line",
    )


def _attributes(values: pl.Series, separator: str) -> pl.Series:
    """Returns each row's attributes, `column=value`, without empty ones."""
    if isinstance(values.dtype, pl.List):
        lists = values.cast(pl.List(pl.String))
    else:
        text = values.cast(pl.String).fill_null("")
        lists = (
            text.str.split(separator)
            if separator
            else text.to_frame().select(pl.concat_list(pl.all())).to_series()
        )
        spelled = text.str.starts_with("[")
        if spelled.any():  # A list that a JSON file holds, or a table has as text.
            parsed = [
                _listed(value) if is_list else None
                for value, is_list in zip(text.to_list(), spelled.to_list(), strict=True)
            ]
            lists = pl.select(
                pl.coalesce(pl.Series(parsed, dtype=pl.List(pl.String)), lists)
            ).to_series()
    table = pl.DataFrame({"values": lists.fill_null([])})
    clean = pl.element().str.strip_chars()
    return table.select(
        pl.col("values")
        .list.eval(clean.filter(clean.is_not_null() & (clean != "")))
        .list.eval(pl.lit(f"{values.name.partition(':')[0]}=") + pl.element())
    ).to_series()


def _listed(text: str) -> list[str] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return [str(entry) for entry in value if entry is not None] if isinstance(value, list) else None
