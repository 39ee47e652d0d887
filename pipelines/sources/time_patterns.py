"""Dates in text after a pattern of `strptime`'s directives, and which pattern a text may have.

A pattern is turned into a regular expression of our own, so that it means the same on any machine:
names of months and days are English whatever the locale, a fraction may have any number of digits,
and a zone is an offset or UTC (`EST` and the like name several).
"""

from __future__ import annotations

import functools
import re

import polars as pl

from pipelines.sources.time_texts import SECOND_PLACES, Read, places, zone_seconds

EXAMPLE = "%d/%m/%Y %H:%M"

_MONTHS = "January February March April May June July August September October November December"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"


def _names(names: str) -> str:
    return "|".join(f"{name[:3]}(?:{name[3:]})?" for name in names.split())


# How many digits a number may have. Where one follows on another it must have them all: nothing
# else says where it ends.
_DIGITS = {"Y": 4, "y": 2, "m": 2, "d": 2, "j": 3, "H": 2, "I": 2, "M": 2, "S": 2}
_OTHERS = {
    "b": _names(_MONTHS),
    "a": _names(_DAYS),
    "f": "[0-9]+",
    "p": r"[ap]\.?m\.?",
    "z": r"z|[+-][0-9]{2}(?::?[0-9]{2})?",
    "Z": "utc|gmt|z",
}
_SAME = {"B": "b", "h": "b", "A": "a", "e": "d"}
_SHORT = {"D": "%m/%d/%y", "F": "%Y-%m-%d", "R": "%H:%M", "T": "%H:%M:%S"}
# Of each of these a pattern may have one.
_EITHER = ("Yy", "mb", "jm", "jb", "jd", "HI")
# What each says nothing without.
_NEEDS = {"I": "p", "p": "I", "M": "HI", "S": "M", "f": "S", "d": "mb", "m": "d", "b": "d"}
_MEANS = {
    "I": "the hour from 1 to 12",
    "p": "AM or PM",
    "M": "the minute",
    "S": "the second",
    "f": "the fraction of a second",
    "d": "the day of the month",
    "m": "the month",
    "b": "the month's name",
}
_CENTURY = 69  # from here on two digits are a year of the 20th century, as in POSIX
# Orders of the numbers beside a time of day, with the month's name there or without.
_ORDERS = [["%d", "%Y"], ["%Y", "%d"], ["%d", "%y"], ["%d", "%m", "%Y"], ["%m", "%d", "%Y"]]
_ORDERS += [["%Y", "%m", "%d"], ["%d", "%m", "%y"], ["%m", "%d", "%y"], ["%y", "%m", "%d"]]
_LONGEST = 100  # characters of a text that patterns are looked for


def check_pattern(pattern: str) -> None:
    """Checks that a pattern tells a day, and every part of it once.

    Raises:
        ValueError: it does not, or has a directive that is not known.
    """
    _expression(pattern)


@functools.lru_cache(maxsize=64)
def _expression(pattern: str) -> tuple[str, frozenset[str]]:
    """The regular expression, a group a directive, and which directives there are."""

    def wrong(what: str) -> ValueError:
        return ValueError(f"time_unit is {pattern!r}: {what}")

    whole = re.sub(r"%(.)", lambda found: _SHORT.get(found[1], found[0]), pattern.strip())
    pieces = re.findall(r"%.?|\s+|[^%\s]+", whole, re.DOTALL)
    letters = [
        _SAME.get(piece[1:], piece[1:]) if piece[0] == "%" and piece != "%%" else ""
        for piece in pieces
    ]
    there: set[str] = set()
    parts: list[str] = []
    for place, (piece, letter) in enumerate(zip(pieces, letters, strict=True)):
        if piece == "%%" or piece[0] != "%":
            parts.append(r"\s+" if piece.isspace() else re.escape("%" if piece == "%%" else piece))
            continue
        if letter not in _DIGITS and letter not in _OTHERS:
            known = " ".join(f"%{name}" for name in sorted({*_DIGITS, *_OTHERS, *_SAME, *_SHORT}))
            raise wrong(f"{piece!r} is not a known directive; these are: {known} %%")
        if letter in there:
            raise wrong(f"{piece!r} says what stands there already")
        there.add(letter)
        beside = {*letters[max(place - 1, 0) : place], *letters[place + 1 : place + 2]}
        least = "" if letter in "Yy" or beside & {*_DIGITS, "f"} else "1,"
        form = _OTHERS.get(letter) or f"[0-9]{{{least}{_DIGITS[letter]}}}"
        parts.append(f"(?P<{letter}>{form})")
    for first, second in _EITHER:
        if first in there and second in there:
            raise wrong(f"'%{first}' and '%{second}' say the same twice")
    if not {"Y", "y"} & there:
        raise wrong("it has no year (%Y, or %y for two digits)")
    if not {"d", "j"} & there:
        raise wrong("it has no day (%d, or %j for the day of the year)")
    for letter, needed in _NEEDS.items():
        if letter in there and not {*needed} & there:
            others = " or ".join(f"'%{other}'" for other in needed)
            raise wrong(f"'%{letter}', {_MEANS[letter]}, says nothing without {others}")
    return f"(?i)^{''.join(parts)}$", frozenset(there)


def read_pattern(values: pl.Series, pattern: str) -> Read:
    """Reads texts after a pattern, as UTC where it has no zone; null for those that do not fit."""
    expression, there = _expression(pattern)
    found = values.str.strip_chars().str.extract_groups(expression).struct.unnest()

    def number(letter: str) -> pl.Expr:
        return pl.col(letter).cast(pl.Int64) if letter in there else pl.lit(0, pl.Int64)

    year = number("Y")
    if "y" in there:
        year = number("y") + pl.when(number("y") < _CENTURY).then(2000).otherwise(1900)
    month, day = number("m"), number("d")
    if "b" in there:
        numbers = {name[:3].lower(): at for at, name in enumerate(_MONTHS.split(), start=1)}
        month = pl.col("b").str.slice(0, 3).str.to_lowercase()
        month = month.replace_strict(numbers, default=None, return_dtype=pl.Int64)
    if "j" in there:
        month, day = pl.lit(1), pl.lit(1)
    hour = number("H")
    if "I" in there:
        is_after_noon = pl.col("p").str.to_lowercase().str.starts_with("p")
        hour = number("I") % 12 + pl.when(is_after_noon).then(12).otherwise(0)
    date = (year * 10_000 + month * 100 + day).cast(pl.String).str.zfill(8)
    first = date.str.to_date("%Y%m%d", strict=False, exact=True)
    days = first.to_physical().cast(pl.Int64) + (number("j") - 1 if "j" in there else 0)
    is_right = (hour < 24) & (number("M") < 60) & (number("S") < 60)
    if "I" in there:
        is_right &= number("I").is_between(1, 12)
    if "j" in there:
        length = pl.when(first.dt.is_leap_year()).then(366).otherwise(365)
        is_right &= number("j").is_between(1, length)
    seconds = days * 86_400 + hour * 3600 + number("M") * 60 + number("S")
    whole = found.select(pl.when(is_right).then(seconds)).to_series()
    if zones := [letter for letter in "zZ" if letter in there]:
        # Both may stand there: "+0000 UTC".
        texts = found.select(pl.concat_str(zones, separator=" ")).to_series()
        known = texts.unique().drop_nulls()
        shift = pl.Series(map(zone_seconds, known), dtype=pl.Int64)
        whole -= texts.replace_strict(known, shift, default=None, return_dtype=pl.Int64)
    return whole, places(found["f"], SECOND_PLACES) if "f" in there else None


def likely_patterns(text: str) -> list[str]:
    """Returns the patterns that a date in text may have: several where day and month look alike.

    Where it is not clear, the day before the month comes first.
    """
    shape = " ".join(text.split())
    if len(shape) > _LONGEST:
        return []
    shape = shape.replace("%", "%%")
    for names, directive in ((_DAYS, "%a"), (_MONTHS, "%b")):
        shape = re.sub(rf"(?i)(?<![a-z%])(?:{_names(names)})(?![a-z])", directive, shape, count=1)
    shape = re.sub(r"(?i)(?<=[0-9 ])(?:utc|gmt|z)(?![a-z])", "%Z", shape, count=1)
    shape = re.sub(
        r"(?<![0-9])([0-9]{1,2}):[0-9]{2}(:[0-9]{2})?(?:(?<=:[0-9]{2})([.,])[0-9]+)?"
        r"(\s*)(?:([AaPp]\.?[Mm]\.?)(?![A-Za-z]))?",
        _clock,
        shape,
        count=1,
    )
    shape = re.sub(r"(?<=[HMSfp ])[+-][0-9]{2}(?::?[0-9]{2})?(?![0-9-])", "%z", shape, count=1)
    num_numbers = len(re.findall("[0-9]+", shape))
    found = []
    for order in _ORDERS:
        if len(order) != num_numbers or ("%m" in order) == ("%b" in shape):
            continue
        left = iter(order)
        pattern = re.sub("[0-9]+", lambda _, left=left: next(left), shape)
        try:
            whole, _ = read_pattern(pl.Series([text]), pattern)
        except ValueError:
            continue
        if whole[0] is not None:
            found.append(pattern)
    return found


def _clock(found: re.Match[str]) -> str:
    """Directives in place of a time of day."""
    _, second, point, space, half = found.groups()
    rest = ":%M" + (":%S" if second else "") + (f"{point}%f" if point else "") + space
    return f"%I{rest}%p" if half else f"%H{rest}"
