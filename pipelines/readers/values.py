"""Columns from values whose types may differ from row to row, as JSON and SQLite have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

_INT64 = range(-(2**63), 2**63)


def column_of(name: str, values: Sequence[Any]) -> pl.Series:
    """Returns Int64 or Float64 where all values are such numbers or missing, else text.

    Whole numbers beyond 64 bits become their decimal text, and so do all where some are text.

    Args:
        name: the column's name.
        values: text, numbers and None (`is_plain`).
    """
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {int} and all(value is None or value in _INT64 for value in values):
        return pl.Series(name, values, dtype=pl.Int64)
    if float in kinds and str not in kinds:
        return pl.Series(name, values, dtype=pl.Float64)
    texts = [value if value is None or type(value) is str else str(value) for value in values]
    return pl.Series(name, texts, dtype=pl.String)


def is_plain(value: Any) -> bool:
    """Whether a value is text, a number or missing."""
    return value is None or type(value) in (str, int, float)
