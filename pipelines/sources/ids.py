"""What an id may be."""

from __future__ import annotations

import re

import polars as pl

from pipelines.sources.checked import Checked

MAX_ID_LENGTH = 1000
_CONTROL_CHARACTERS = r"[\x00-\x1f\x7f-\x{9f}]"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_INT64 = 1 << 63


def id_fault(raw: str) -> tuple[str, str] | None:
    """Returns why a text cannot be an id, as a reason of `BadRows` and in words; None for an id."""
    if not raw:
        return "empty_id", "is empty"
    if _CONTROL.search(raw):
        return "control_character", f"is {raw!r:.90}, with a control character inside"
    if len(raw) > MAX_ID_LENGTH:
        return (
            "id_too_long",
            f"begins with {raw[:40]!r} and has {len(raw)} characters; an id has at most "
            f"{MAX_ID_LENGTH}",
        )
    return None


def clean_ids(checked: Checked, column: str) -> None:
    """Makes a column hold ids, String or Int64, and leaves out rows that have none.

    Spaces around an id are taken off. An id holds at most `MAX_ID_LENGTH` characters, none of them
    a control character; everything else is taken as it is.
    """
    ids = checked.frame[column]
    if ids.dtype.is_integer():
        checked.leave_out(ids.is_null(), "empty_id", lambda _: f"{column!r} is missing")
        ids = checked.frame[column]
        fits = ids.dtype != pl.UInt64 or not (ids >= _INT64).any()
        checked.frame = checked.frame.with_columns(ids.cast(pl.Int64 if fits else pl.String))
        return

    def fault(place: int) -> str:
        found = id_fault(checked.frame[column][place])
        assert found is not None
        return f"{column!r} {found[1]}"

    if not checked.is_plain:
        checked.frame = checked.frame.with_columns(ids.str.strip_chars(" "))
    checked.leave_out(
        checked.frame[column] == "",
        "empty_id",
        lambda place: f"{column!r} is {'missing' if ids[place] is None else 'empty'}",
    )
    if not checked.is_plain:
        checked.leave_out(
            checked.frame[column].str.contains(_CONTROL_CHARACTERS),
            "control_character",
            fault,
        )
    # A character has four bytes at most, so that few are counted.
    may_be_long = checked.frame[column].str.len_bytes() > MAX_ID_LENGTH
    if may_be_long.any():
        checked.leave_out(
            checked.frame[column].str.len_chars() > MAX_ID_LENGTH,
            "id_too_long",
            fault,
        )
