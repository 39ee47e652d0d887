"""A value that tells which rows count, such as a rating."""

from __future__ import annotations

import polars as pl

from pipelines.sources.checked import Checked
from pipelines.tables.bad_rows import BadRows

BELOW = "below_min_value"  # how many rows lie below, among what a manifest counts
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?$"


def keep_from(checked: Checked, column: str, least: float, bad_rows: BadRows) -> None:
    """Keeps rows whose value is `least` or more, and leaves out those that have none.

    Args:
        checked: the rows.
        column: holds numbers, or text that spells them; the same number counts the same however a
            file holds it.
        least: compared as a 64-bit float.
        bad_rows: is told how many rows are right and lie below.
    """
    values = checked.frame[column]
    numbers = _numbers(values)
    checked.frame = checked.frame.with_columns(numbers.alias("_number"))

    def shown(place: int) -> str:
        value = values[place]
        return f"{column!r} is " + (
            "missing" if value is None else f"{value!r:.60}, which is not a number"
        )

    checked.leave_out(numbers.is_null(), "not_a_number", shown)
    enough = (checked.frame["_number"] >= least).to_numpy()
    checked.frame = checked.frame.drop("_number")
    if not enough.all():
        bad_rows.leave_out(BELOW, int((~enough).sum()))
        checked.keep(enough)


def _numbers(values: pl.Series) -> pl.Series:
    """Float64, null for what is not a finite number."""
    if not values.dtype.is_numeric():
        texts = values.cast(pl.String).str.strip_chars(" ")
        spelled = texts.str.contains(_NUMBER)
        values = pl.select(pl.when(spelled).then(texts)).to_series()
    numbers = values.cast(pl.Float64, strict=False)
    return pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series()
