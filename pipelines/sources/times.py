"""Times in seconds, from numbers of a stated unit and from dates."""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Callable

import polars as pl

from pipelines.sources.checked import Checked

# Units a second.
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
ISO = "iso"
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_END = 4_133_980_800  # 2101-01-01
# A number that one unit puts between 1973 and 2100 is put before March 1970 or far after 2100 by
# all others, so that it tells its unit.
_PLAUSIBLE = 100_000_000
_FAR = 1 << 62  # stands for every number that is larger
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_DECIMAL = r"^([0-9]{1,18})\.[0-9]*$"
_DATE_TIME = "%Y-%m-%d{}%H:%M:%S"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def check_unit(unit: str) -> None:
    """Raises ValueError for a unit that is not known."""
    if unit not in UNITS and unit != ISO:
        known = ", ".join(map(repr, (*UNITS, ISO)))
        raise ValueError(f"time_unit is {unit!r}; it must be one of {known}")


def to_seconds(checked: Checked, column: str, unit: str) -> None:
    """Makes a column hold whole seconds since 1970 UTC, Int64, and leaves out rows without a time.

    Fractions are cut off downwards. Dates and date-times (a type of the file's own, or ISO 8601 in
    text) without a time zone are taken as UTC.

    Args:
        checked: the rows.
        column: holds numbers, text, dates or date-times.
        unit: of numbers, one of `UNITS`, or `ISO`.
    """
    values = checked.frame[column]
    has_unit = False
    if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
        ticks = _of_dates(values)
    elif unit == ISO:
        ticks = _of_iso(values.cast(pl.String))
    else:
        ticks, has_unit = _of_numbers(values), True
    per_second = UNITS[unit] if has_unit else 1
    if _all_plausible(ticks, per_second):
        checked.frame = checked.frame.with_columns((ticks // per_second).alias(column))
        return
    checked.frame = checked.frame.with_columns(ticks.alias("_ticks"))

    def shown(place: int) -> str:
        value = checked.frame[column][place]
        if value is None:
            return f"{column!r} is missing"
        if not isinstance(value, str | int | float):
            value = str(value)
        return f"{column!r} is {value!r:.60}"

    checked.leave_out(
        checked.frame["_ticks"].is_null(),
        "not_a_time",
        lambda place: (
            f"{shown(place)}, which is no time{_hint(checked.frame[column][place], unit)}"
        ),
    )
    checked.leave_out(
        checked.frame["_ticks"] < 0,
        "negative_time",
        lambda place: f"{shown(place)}, which lies before 1970",
    )
    if has_unit:
        for other, factor in UNITS.items():
            if other != unit:
                checked.leave_out(
                    checked.frame["_ticks"].is_between(
                        _PLAUSIBLE * factor, _END * factor, closed="left"
                    ),
                    "time_in_another_unit",
                    lambda place, other=other: (
                        f"{shown(place)}: {_when(checked.frame['_ticks'][place], other)} in "
                        f"{_NAMES[other]}, but {_when(checked.frame['_ticks'][place], unit)} in "
                        f"{_NAMES[unit]} (time_unit is {unit!r})"
                    ),
                )
    checked.leave_out(
        checked.frame["_ticks"] // per_second >= _END,
        "time_after_2100",
        lambda place: f"{shown(place)}, which lies after the year 2100",
    )
    seconds = (checked.frame["_ticks"] // per_second).alias(column)
    checked.frame = checked.frame.with_columns(seconds).drop("_ticks")


def _all_plausible(ticks: pl.Series, per_second: int) -> bool:
    """Whether there is nothing to look at more closely, as there is mostly not."""
    low, high = ticks.min(), ticks.max()
    return (
        not ticks.null_count()
        and isinstance(low, int)
        and isinstance(high, int)
        and low >= _PLAUSIBLE * per_second
        and high < _END * per_second
    )


def _of_dates(values: pl.Series) -> pl.Series:
    # Division rounds down, so that times before 1970 stay before it.
    return values.cast(pl.Datetime("us")).cast(pl.Int64) // UNITS["us"]


def _of_numbers(values: pl.Series) -> pl.Series:
    """Whole numbers; null for what is none."""
    if values.dtype.is_integer():
        if values.dtype == pl.UInt64:
            values = values.clip(upper_bound=_FAR)
        return values.cast(pl.Int64)
    if values.dtype.is_float():
        finite = pl.when(values.is_finite()).then(values)
        rounded = pl.select(finite.floor().clip(-float(_FAR), float(_FAR))).to_series()
        return rounded.cast(pl.Int64)
    values = values.cast(pl.String)
    return _fill(values, values.cast(pl.Int64, strict=False), _decimals, _number)


def _of_iso(values: pl.Series) -> pl.Series:
    """Seconds since 1970 of ISO 8601 texts; null for what is none."""
    return _fill(values, _date_times(values, "T"), lambda rest: _date_times(rest, " "), _iso)


def _fill(
    values: pl.Series,
    ticks: pl.Series,
    further: Callable[[pl.Series], pl.Series],
    one: Callable[[str], int | None],
) -> pl.Series:
    """Fills in what is null in `ticks`: by columns with `further`, then one by one with `one`."""
    for of_rest in (further, lambda rest: pl.Series(map(one, rest), dtype=pl.Int64)):
        missing = (ticks.is_null() & values.is_not_null()).arg_true()
        if len(missing):
            ticks = ticks.scatter(missing, of_rest(values.gather(missing)))
    return ticks


def _decimals(values: pl.Series) -> pl.Series:
    whole = values.str.strip_chars(" \t").str.extract(_DECIMAL)
    return whole.cast(pl.Int64)


def _number(text: str) -> int | None:
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    whole = decimal.Decimal(text).to_integral_value(decimal.ROUND_FLOOR)
    return int(max(min(whole, decimal.Decimal(_FAR)), decimal.Decimal(-_FAR)))


def _date_times(values: pl.Series, separator: str) -> pl.Series:
    whole = values.str.to_datetime(
        _DATE_TIME.format(separator), time_unit="us", strict=False, exact=True
    )
    return whole.cast(pl.Int64) // UNITS["us"]


def _iso(text: str) -> int | None:
    try:
        time = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    return (time - _EPOCH) // datetime.timedelta(seconds=1)


def _hint(value: object, unit: str) -> str:
    if isinstance(value, str) and unit != ISO and _iso(value) is not None:
        return " in numbers; for dates set time_unit='iso'"
    if isinstance(value, str) and unit == ISO and _number(value) is not None:
        return " in ISO 8601; for numbers set time_unit='s' or 'ms'"
    return f" (time_unit is {unit!r})"


def _when(ticks: int, unit: str) -> str:
    """The day on which a number lies."""
    seconds = ticks // UNITS[unit]
    if seconds >= _END:
        return "after the year 2100"
    return str((_EPOCH + datetime.timedelta(seconds=seconds)).date())
