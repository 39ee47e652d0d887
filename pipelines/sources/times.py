"""Times in nanoseconds since 1970, from numbers of a stated unit and from dates.

Nothing of a time's resolution is lost before the log is in order: what is finer than a nanosecond
is cut off, nothing else. A time is read as `whole` units of its own (of seconds for dates in text)
and `rest` nanoseconds, as a number of any size, in another unit perhaps, need not fit into 64 bits
of nanoseconds.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import re

import polars as pl

from pipelines.sources.checked import Checked
from pipelines.sources.time_patterns import (
    EXAMPLE,
    check_pattern,
    likely_patterns,
    read_pattern,
)
from pipelines.sources.time_texts import SECOND_PLACES, Read, fill, iso_time, places, read_iso
from pipelines.tables.interactions import TICKS_PER_SECOND

# Units a second.
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# Decimal places of a number in each that are whole nanoseconds.
_PLACES = {"s": SECOND_PLACES, "ms": 6, "us": 3, "ns": 0}
ISO = "iso"
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_END = 4_133_980_800  # 2101-01-01
# A number that one unit puts between 1973 and 2100 is put before March 1970 or far after 2100 by
# all others, so that it tells its unit.
_PLAUSIBLE = 100_000_000
_FAR = 1 << 62  # stands for every number that is larger
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_DECIMAL = r"^([0-9]{1,18})\.([0-9]*)$"
# Rounds down, so that more digits than it holds change no whole number of nanoseconds.
_EXACT = decimal.Context(prec=100, rounding=decimal.ROUND_FLOOR)
_LOOKED_AT = 1000  # rows of a block, for a hint
# Columns beside the log's own, whose names no file has.
_WHOLE, _REST = "\0whole", "\0rest"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def check_unit(unit: str) -> None:
    """Raises ValueError unless it is a unit, "iso" or a pattern that tells a day."""
    if "%" in unit:
        check_pattern(unit)
    elif unit not in UNITS and unit != ISO:
        known = ", ".join(map(repr, (*UNITS, ISO)))
        raise ValueError(
            f"time_unit is {unit!r}; it must be one of {known}, or a strptime pattern such as "
            f"{EXAMPLE!r}"
        )


@dataclasses.dataclass(frozen=True)
class _Times:
    """Times of any size.

    Attributes:
        whole: Int64, in `1 / per_second` seconds, rounded down; null where there is no time.
        rest: Int64, nanoseconds from there on; None: all are 0.
        per_second: of `whole`.
    """

    whole: pl.Series
    rest: pl.Series | None
    per_second: int

    def is_plausible(self) -> bool:
        """Whether there is nothing to look at more closely, as there is mostly not."""
        low, high = self.whole.min(), self.whole.max()
        return (
            not self.whole.null_count()
            and isinstance(low, int)
            and isinstance(high, int)
            and low >= _PLAUSIBLE * self.per_second
            and high < _END * self.per_second
        )


def to_ticks(checked: Checked, column: str, unit: str) -> None:
    """Makes a column hold nanoseconds since 1970 UTC, Int64, and leaves out rows without a time.

    What is finer than a nanosecond is cut off. Numbers in text, decimals and whole numbers are
    taken as exactly as they are written. A float is the shortest decimal that gives it back; one of
    64 bits tells times of our days apart that lie 0.25 microseconds apart (1.5e9 seconds have steps
    of 2^-22), in any unit, and one of 32 bits does so from 128 seconds on. Dates and date-times (a
    type of the file's own, or ISO 8601 in text) without a time zone are taken as UTC.

    Args:
        checked: the rows.
        column: holds numbers, text, dates or date-times.
        unit: of numbers, one of `UNITS`; of text, `ISO` or a pattern, see `time_patterns`.
    """
    times = _times_of(checked.frame[column], unit)
    per_second = times.per_second
    if times.is_plausible():
        checked.frame = checked.frame.with_columns(_ticks(times).alias(column))
        return
    rest = pl.repeat(0, len(times.whole), dtype=pl.Int64, eager=True)
    checked.frame = checked.frame.with_columns(
        times.whole.alias(_WHOLE), (rest if times.rest is None else times.rest).alias(_REST)
    )

    def shown(place: int) -> str:
        value = checked.frame[column][place]
        if value is None:
            return f"{column!r} is missing"
        if not isinstance(value, str | int | float):
            value = str(value)
        return f"{column!r} is {value!r:.60}"

    checked.leave_out(
        checked.frame[_WHOLE].is_null(),
        "not_a_time",
        lambda place: (
            f"{shown(place)}, which is not a time{_hint(checked.frame[column], place, unit)}"
        ),
    )
    checked.leave_out(
        checked.frame[_WHOLE] < 0,
        "negative_time",
        lambda place: f"{shown(place)}, which lies before 1970",
    )
    if unit in UNITS and not _has_dates(checked.frame[column]):
        for other, factor in UNITS.items():
            if other != unit:
                checked.leave_out(
                    checked.frame[_WHOLE].is_between(
                        _PLAUSIBLE * factor, _END * factor, closed="left"
                    ),
                    "time_in_another_unit",
                    lambda place, other=other: (
                        f"{shown(place)}: {_when(checked.frame[_WHOLE][place], other)} in "
                        f"{_NAMES[other]}, but {_when(checked.frame[_WHOLE][place], unit)} in "
                        f"{_NAMES[unit]} (time_unit is {unit!r})"
                    ),
                )
    checked.leave_out(
        checked.frame[_WHOLE] >= _END * per_second,
        "time_after_2100",
        lambda place: f"{shown(place)}, which lies after the year 2100",
    )
    left = _Times(checked.frame[_WHOLE], checked.frame[_REST], per_second)
    checked.frame = checked.frame.with_columns(_ticks(left).alias(column)).drop(_WHOLE, _REST)


def _times_of(values: pl.Series, unit: str) -> _Times:
    if values.dtype == pl.Date:
        # Days; Int64 holds every one of them in seconds.
        return _Times(values.to_physical().cast(pl.Int64) * 86_400, None, 1)
    if isinstance(values.dtype, pl.Datetime):
        return _Times(values.to_physical(), None, UNITS[values.dtype.time_unit])
    if unit == ISO:
        return _Times(*read_iso(values.cast(pl.String)), 1)
    if unit not in UNITS:
        return _Times(*read_pattern(values.cast(pl.String), unit), 1)
    return _Times(*_of_numbers(values, _PLACES[unit]), UNITS[unit])


def _has_dates(values: pl.Series) -> bool:
    return values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime)


def _ticks(times: _Times) -> pl.Series:
    ticks = times.whole * (TICKS_PER_SECOND // times.per_second)
    return ticks if times.rest is None else ticks + times.rest


def _of_numbers(values: pl.Series, digits: int) -> Read:
    """Reads numbers of a unit that has so many decimal places of nanoseconds."""
    if values.dtype.is_integer():
        if values.dtype == pl.UInt64:
            values = values.clip(upper_bound=_FAR)
        return values.cast(pl.Int64), None
    if not values.dtype.is_float():
        return _of_texts(values.cast(pl.String), digits)
    finite = pl.when(values.is_finite()).then(values)
    rounded = pl.select(finite.floor().clip(-float(_FAR), float(_FAR))).to_series()
    whole = rounded.cast(pl.Int64)
    broken = (values.is_finite() & (values != values.floor())).arg_true()
    if not digits or not len(broken):
        return whole, None
    # The shortest text that gives the float back: 0.1 and not 0.1000000000000000055.
    whole_of_broken, rest_of_broken = _of_texts(values.gather(broken).cast(pl.String), digits)
    rest = pl.repeat(0, len(values), dtype=pl.Int64, eager=True)
    if rest_of_broken is not None:
        rest = rest.scatter(broken, rest_of_broken)
    return whole.scatter(broken, whole_of_broken), rest


def _of_texts(values: pl.Series, digits: int) -> Read:
    """Reads numbers in text; null for any other text."""
    whole = values.cast(pl.Int64, strict=False)
    return fill(
        values,
        (whole, None),
        lambda rest: _decimals(rest, digits),
        lambda text: _number(text, digits),
    )


def _decimals(values: pl.Series, digits: int) -> Read:
    parts = values.str.strip_chars(" \t").str.extract_groups(_DECIMAL).struct.unnest()
    return parts.to_series(0).cast(pl.Int64), places(parts.to_series(1), digits)


def _number(text: str, digits: int) -> tuple[int, int] | None:
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    value = _EXACT.create_decimal(text)
    whole = value.to_integral_value(decimal.ROUND_FLOOR)
    if abs(whole) >= _FAR:
        return (_FAR if whole > 0 else -_FAR), 0
    return int(whole), int(_EXACT.scaleb(_EXACT.subtract(value, whole), digits))


def _hint(values: pl.Series, place: int, unit: str) -> str:
    """What to set for the value at a place to be a time."""
    text = values[place]
    if not isinstance(text, str) or not text.strip():
        return f" (time_unit is {unit!r})"
    what = " in numbers" if unit in UNITS else " in ISO 8601" if unit == ISO else f" after {unit!r}"
    if unit != ISO and iso_time(text) is not None:
        return f"{what}; for dates set time_unit='iso'"
    if unit not in UNITS and _number(text, 0) is not None:
        return f"{what}; for numbers set time_unit='s' or 'ms'"
    patterns = likely_patterns(text)
    if len(patterns) > 1:
        # Other rows may tell the day from the month.
        some = values.head(_LOOKED_AT).cast(pl.String)
        fit = [read_pattern(some, pattern)[0].count() for pattern in patterns]
        most = max(fit)
        patterns = [pattern for pattern, num in zip(patterns, fit, strict=True) if num == most]
    if patterns:
        unclear = ": nothing tells which number is the day" if len(patterns) > 1 else ""
        return f"{what}; set time_unit={' or '.join(map(repr, patterns))}{unclear}"
    return f" (time_unit is {unit!r}; it may be a strptime pattern, such as {EXAMPLE!r})"


def _when(ticks: int, unit: str) -> str:
    """The day on which a number lies."""
    seconds = ticks // UNITS[unit]
    if seconds >= _END:
        return "after the year 2100"
    return str((_EPOCH + datetime.timedelta(seconds=seconds)).date())
