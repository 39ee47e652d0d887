"""Dates in text: ISO 8601, time zones, and what all readers of text share.

A time is read as `whole` seconds since 1970, rounded down, and `rest` nanoseconds from there on.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable

import polars as pl

# `whole` and `rest`, Int64; None for `rest`: all are 0.
Read = tuple[pl.Series, pl.Series | None]
# Decimal places of a second that are whole nanoseconds.
SECOND_PLACES = 9

_DATE_TIME = "%Y-%m-%d{}%H:%M:%S"
_DATE_TIME_CHARS = 19
_FRACTION = r"^[.,]([0-9]+)"
_ZONE = re.compile(
    r"\s*(?:(?P<sign>[+-])(?P<hours>[01]\d|2[0-3])(?::?(?P<minutes>[0-5]\d))?)?"
    r"\s*(?P<utc>UTC|GMT|Z)?",
    re.ASCII | re.IGNORECASE,
)
# What `fromisoformat` does not know: names, and spaces before an offset.
_ZONE_AT_END = re.compile(
    r"\s*(?:\s[+-]\d\d(?::?\d\d)?)?\s*(?:UTC|GMT|Z)$|\s+[+-]\d\d(?::?\d\d)?$",
    re.ASCII | re.IGNORECASE,
)
_DATE_WITH_ZONE = re.compile(r"\d{4}-\d\d-\d\d[+-]", re.ASCII)
_FINER = re.compile(r"[.,]\d{6}(\d{1,3})", re.ASCII)
_LONGEST = 200  # characters of a date; patterns take long for pages of spaces
_MICROSECONDS = 1_000_000  # a second
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def read_iso(values: pl.Series) -> Read:
    """Reads ISO 8601 texts; null for any other text."""
    return fill(values, _date_times(values, "T"), lambda rest: _date_times(rest, " "), iso_time)


def _date_times(values: pl.Series, separator: str) -> Read:
    """Reads `YYYY-MM-DD HH:MM:SS`, perhaps with a fraction, perhaps with a time zone."""
    texts = values.str.strip_chars(" \t")
    whole = texts.str.slice(0, _DATE_TIME_CHARS).str.to_datetime(
        _DATE_TIME.format(separator), time_unit="us", strict=False, exact=True
    )
    whole = whole.to_physical() // _MICROSECONDS
    tails = texts.str.slice(_DATE_TIME_CHARS)
    if (tails == "").all():
        return whole, None
    # A log has few time zones.
    zones = tails.str.replace(_FRACTION, "")
    known = zones.unique().drop_nulls()
    shift = pl.Series(map(zone_seconds, known), dtype=pl.Int64)
    whole -= zones.replace_strict(known, shift, default=None, return_dtype=pl.Int64)
    return whole, places(tails.str.extract(_FRACTION), SECOND_PLACES).fill_null(0)


def zone_seconds(text: str) -> int | None:
    """By how many seconds clocks there are ahead of UTC; None for any other text."""
    found = _ZONE.fullmatch(text[:_LONGEST])
    if found is None or len(text) > _LONGEST:
        return None
    seconds = int(found["hours"] or 0) * 3600 + int(found["minutes"] or 0) * 60
    if found["utc"] and seconds:
        return None
    return -seconds if found["sign"] == "-" else seconds


def iso_time(text: str) -> tuple[int, int] | None:
    """Reads any other text of ISO 8601, and a time zone after a space."""
    text = text.strip()
    # Python would take the offset behind a date for a time of day.
    if len(text) > _LONGEST or _DATE_WITH_ZONE.match(text):
        return None
    end = _ZONE_AT_END.search(text)
    bare = text if end is None else text[: end.start()]
    try:
        time = datetime.datetime.fromisoformat(bare)
    except ValueError:
        return None
    zone = 0 if end is None else zone_seconds(end[0])
    if zone is None or (end is not None and time.utcoffset()):
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    whole, micros = divmod((time - _EPOCH) // datetime.timedelta(microseconds=1), _MICROSECONDS)
    # Python takes the rest of a fraction, and drops it.
    finer = _FINER.search(bare)
    return whole - zone, micros * 1000 + (int(finer[1].ljust(3, "0")) if finer else 0)


def fill(
    values: pl.Series,
    read: Read,
    further: Callable[[pl.Series], Read],
    one: Callable[[str], tuple[int, int] | None],
) -> Read:
    """Fills in what is null in `read`: by columns with `further`, then one by one with `one`."""

    def one_by_one(rest: pl.Series) -> Read:
        pairs = [one(text) or (None, None) for text in rest]
        columns = zip(*pairs, strict=True)
        first, second = (pl.Series(column, dtype=pl.Int64) for column in columns)
        return first, second

    whole, rest = read
    for of_missing in (further, one_by_one):
        missing = (whole.is_null() & values.is_not_null()).arg_true()
        if not len(missing):
            break
        more, more_rest = of_missing(values.gather(missing))
        whole = whole.scatter(missing, more)
        if more_rest is not None:
            if rest is None:
                rest = pl.repeat(0, len(values), dtype=pl.Int64, eager=True)
            rest = rest.scatter(missing, more_rest)
    return whole, rest


def places(fraction: pl.Series, digits: int) -> pl.Series:
    """The first decimal places as a whole number; null for no text."""
    return ("0" + fraction.str.slice(0, digits).str.pad_end(digits, "0")).cast(pl.Int64)
