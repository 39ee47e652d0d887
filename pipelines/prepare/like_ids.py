"""Ids that would match if they were written alike: leading zeros, quotes, spaces, case, `.0`."""

from __future__ import annotations

import polars as pl

_ID = pl.col("id")
# What is done to ids, in words, and how; the last does all of it.
_WAYS = {
    "leading zeros are taken off": _ID.str.strip_chars_start("0"),
    "'.0' is taken off the end": _ID.str.replace(r"\.0+$", ""),
    "quotes around them are taken off": _ID.str.strip_chars("\"'"),
    "spaces around them are taken off": _ID.str.strip_chars(),
    "letters are made small": _ID.str.to_lowercase(),
    "zeros, '.0', quotes, spaces and case are passed over": (
        _ID.str.replace_all(r"[\s\"']", "").str.replace(r"\.0+$", "").str.strip_chars_start("0")
    ).str.to_lowercase(),
}


def like_ids(unknown: pl.Series, listed: pl.Series) -> str:
    """Returns how ids that a catalogue lacks would be found in it, in words; "" if they would not.

    Args:
        unknown: ids that it lacks, String or whole numbers.
        listed: all of its ids.
    """
    missing = pl.DataFrame({"id": unknown.cast(pl.String).unique(maintain_order=True)})
    there = pl.DataFrame({"id": listed.cast(pl.String)})
    for what, how in _WAYS.items():
        found = missing.with_columns(how.alias("like")).join(
            there.with_columns(how.alias("like")).unique("like", keep="first", maintain_order=True),
            on="like",
            how="inner",
            maintain_order="left",
            suffix="_there",
        )
        if len(found):
            return (
                f"{len(found)} of {len(missing)} such items are there once {what}, as "
                f"{found['id_there'][0]!r:.60} for {found['id'][0]!r:.60}"
            )
    return ""
