"""Python values, as JSON and SQLite give them, as columns of text; what does not fit is told."""

from __future__ import annotations

from typing import Any

from pipelines.tables.table import Kind


class FloatText(str):
    """A number with a fraction or an exponent, as it was written."""


class WrongTypeError(Exception):
    """A value that its column cannot have; the message says what it may be."""

    def __init__(self, may_be: str, reason: str = "wrong_type"):
        super().__init__(may_be)
        self.reason = reason


_MOST_BITS = 10_000  # Python writes no number of more than 4,300 digits

_MAY_BE = {
    "id": "a text or a whole number",
    "time": "a number or a text",
    "event": "a text or a number",
    "number": "a number or a text",
    "text": "a text, a number or a list of them",
    "list": "a list of texts and numbers",
    "plain": "a text, a number, true or false",
}


def text_of(value: Any, kind: Kind) -> str | None:
    """Returns a value as text, None for one that is missing.

    Args:
        value: as `json` gives it with `FloatText` for floats, or as `sqlite3` does.
        kind: what it is read for; "list" is not for this function.

    Raises:
        WrongTypeError: of another type than the kind may have, or no valid Unicode.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if isinstance(value, FloatText) and kind == "id":  # a rounded one may be another
            raise WrongTypeError(_MAY_BE[kind])
        check_unicode(value)
        return str(value)
    if isinstance(value, bool):
        if kind in ("text", "plain"):
            return "true" if value else "false"
    elif isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise WrongTypeError(f"a number of fewer than {_MOST_BITS} bits", "number_too_long")
        return str(value)
    elif isinstance(value, float):
        if kind != "id":
            return repr(value)
    elif isinstance(value, list | tuple) and kind == "text":
        return "\n".join(list_of(value))
    raise WrongTypeError(_MAY_BE[kind])


def list_of(value: Any, levels: int = 100) -> list[str]:
    """Returns a value as a list of texts; lists in lists are laid out flat, so many levels.

    Raises:
        WrongTypeError: an object is among them, no valid Unicode, or more levels.
    """
    if isinstance(value, list | tuple):
        if not levels:
            raise WrongTypeError("a list of texts and numbers, with few lists in lists")
        return [text for entry in value for text in list_of(entry, levels - 1)]
    if isinstance(value, dict):
        raise WrongTypeError(_MAY_BE["list"])
    text = text_of(value, "text")
    return [] if text is None else [text]


def check_unicode(value: str) -> None:
    """Raises WrongTypeError for half a surrogate pair, which no file can hold as text."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise WrongTypeError("valid Unicode", "not_unicode") from None
