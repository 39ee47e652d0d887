"""What an id may be."""

from __future__ import annotations

import polars as pl

from pipelines.sources.checked import Checked

MAX_ID_LENGTH = 1000
_CONTROL_CHARACTERS = r"[\x00-\x1f\x7f-\x{9f}]"
_INT64 = 1 << 63


def clean_ids(checked: Checked, column: str) -> None:
    """Makes a column hold ids, String or Int64, and leaves out rows that have none.

    Spaces around an id are taken off. An id holds at most `MAX_ID_LENGTH` characters, none of them
    a control character; everything else is taken as it is.
    """
    ids = checked.frame[column]
    if ids.dtype.is_integer():
        checked.leave_out(ids.is_null(), "empty_id", lambda _: f"{column!r} is missing")
        ids = checked.frame[column]
        fits = ids.dtype.is_signed_integer() or not len(ids) or ids.max() < _INT64  # pyrefly: ignore
        checked.frame = checked.frame.with_columns(ids.cast(pl.Int64 if fits else pl.String))
        return

    def value(place: int) -> str:
        return repr(checked.frame[column][place])

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
            lambda place: f"{column!r} is {value(place):.90}, with a control character inside",
        )
    # A character has four bytes at most, so that few are counted.
    may_be_long = checked.frame[column].str.len_bytes() > MAX_ID_LENGTH
    if may_be_long.any():
        length = checked.frame[column].str.len_chars()
        checked.leave_out(
            length > MAX_ID_LENGTH,
            "id_too_long",
            lambda place: (
                f"{column!r} begins with {checked.frame[column][place][:40]!r} and has "
                f"{length[place]} characters; an id has at most {MAX_ID_LENGTH}"
            ),
        )
