"""Columns of an item table that `items.parquet` keeps: `source.columns` names them.

A server's rules speak of them (`price < 20`), and no model reads them. A column holds whole numbers
(Int64), numbers (Float64) or texts (String), whichever all its values are, however the file writes
them; a value that is missing is null.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from pipelines.prepared_files import ITEMS
from pipelines.sources.checked import Checked

# Without leading zeros: "007" is a name. So many digits a number holds; what has more is a name.
_WHOLE = r"^(?:0|-?[1-9][0-9]{0,17})$"
_NUMBER = (
    r"^-?(?:(?:0|[1-9][0-9]{0,14})|(?:0|[1-9][0-9]{0,16})\.[0-9]+"
    r"|[0-9](?:\.[0-9]+)?[eE][+-]?[0-9]{1,3})$"
)


def check_carried(where: str, columns: Sequence[str], attributes: Sequence[str]) -> None:
    """Checks the names of the columns that are to be kept.

    Args:
        where: the file that they are of, for the message.
        columns: their names.
        attributes: columns that become attributes.

    Raises:
        ValueError: `items.parquet` has such a column already, or rules would find two of a name.
    """
    for name in columns:
        if name in ITEMS:
            raise ValueError(
                f"{where}: source.columns names {name!r}, but items.parquet has a column of that "
                f"name already; it has {', '.join(ITEMS)}: give the file's column another name"
            )
        if "=" in name:
            raise ValueError(
                f"{where}: source.columns names {name!r}; rules could not tell the name from a "
                "value: give the file's column a name without '='"
            )
        if name in attributes:
            raise ValueError(
                f"{where}: source.columns and source.attributes both name {name!r}; rules find "
                "attributes as well: name it in one of them"
            )


def clean_carried(checked: Checked, columns: Sequence[str]) -> None:
    """Trims texts, takes empty ones and NaN as missing, and leaves out rows of infinite numbers."""
    for name in columns:
        values = checked.frame[name]
        if values.dtype.is_float():
            values = values.fill_nan(None)
            checked.frame = checked.frame.with_columns(values)
            checked.leave_out(
                values.is_infinite().fill_null(False),
                "not_finite",
                lambda place, name=name, values=values: (
                    f"{name!r} is {values[place]}; a number must be finite"
                ),
            )
        elif values.dtype == pl.String:
            texts = values.str.strip_chars()
            present = pl.when(texts != "").then(texts).alias(name)
            checked.frame = checked.frame.with_columns(pl.select(present).to_series())


def typed(values: pl.Series) -> pl.Series:
    """Returns texts as numbers where all of them are: Int64, Float64, or String as they are.

    Args:
        values: String; null where nothing is known.
    """
    known = values.drop_nulls()
    if known.is_empty():
        return values
    if known.str.contains(_WHOLE).all():
        return values.cast(pl.Int64)
    if known.str.contains(_NUMBER).all():
        numbers = values.cast(pl.Float64)
        if numbers.drop_nulls().is_finite().all():
            return numbers
    return values
