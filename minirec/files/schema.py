"""What a JSON value must look like, written as a value itself.

    {"split": str, "users": COUNT, "best_step": (COUNT, None), "metrics": {str: NUMBER}, "x?": bool}

`str`, `bool`, `dict` and `list` stand for values of that type, `object` for any; `[shape]` for a
list of such; `{str: shape}` for an object with any names; another dict for an object with at least
these fields, of which those that end in "?" may be missing; a tuple for one of several shapes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kind:
    """A shape that a test tells.

    Attributes:
        name: what a person calls such a value.
        test: whether a value is one.
    """

    name: str
    test: Callable[[Any], bool]


def is_whole(value: Any) -> bool:
    """Returns whether a JSON value is a whole number that int64 holds; true and false are not."""
    return type(value) is int and -(2**63) <= value < 2**63


def is_number(value: Any) -> bool:
    """Returns whether a JSON value is a finite number; true and false are not."""
    return type(value) in (int, float) and math.isfinite(value)


def require_whole(field: str, value: Any, least: int = 1) -> None:
    """Raises ValueError unless a field's value is a whole number of at least `least`."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{field}={value!r}: must be a whole number of at least {least}")


NUMBER = Kind("a finite number", is_number)
WHOLE = Kind("a whole number", is_whole)
COUNT = Kind("a whole number from 0 on", lambda value: is_whole(value) and value >= 0)
SHA256 = Kind(
    "64 hexadecimal digits",
    lambda value: type(value) is str and len(value) == 64 and not set(value) - set(_HEXADECIMAL),
)

_HEXADECIMAL = "0123456789abcdef"
_NAMES = {
    str: "text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    None: "null",
}
_MOST_SHOWN = 60


def check(value: Any, shape: Any, where: str, *, exact: bool = False) -> None:
    """Raises ValueError unless a value is of a shape; the message names `where`, field and value.

    Args:
        value: as JSON knows it.
        shape: see above.
        where: what the value comes from.
        exact: refuse fields that the shape does not name, such as one whose name is misspelt.
    """
    _check(value, shape, where, "", exact)


def _check(value: Any, shape: Any, where: str, field: str, exact: bool) -> None:
    if isinstance(shape, tuple):
        simple = (one for one in shape if not isinstance(one, dict | list) or not one)
        right = any(_is(value, one) for one in simple)
        # Of several shapes one may have parts: what is wrong in a part is said of that.
        parts = next((one for one in shape if isinstance(one, dict | list) and one), None)
        if right:
            return
        if parts is not None and isinstance(value, type(parts)):
            _check(value, parts, where, field, exact)
            return
        _refuse(value, shape, where, field)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            _refuse(value, shape, where, field)
        for number, entry in enumerate(value):
            _check(entry, shape[0], where, f"{field}[{number}]", exact)
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            _refuse(value, shape, where, field)
        if str in shape:
            for name, entry in value.items():
                _check(entry, shape[str], where, _inside(field, name), exact)
            return
        for name, part in shape.items():
            plain = name.removesuffix("?")
            if plain in value:
                _check(value[plain], part, where, _inside(field, plain), exact)
            elif plain == name:
                raise ValueError(
                    f"{where}: {_inside(field, name)} is missing; expected {_said(part)}"
                )
        known = [name.removesuffix("?") for name in shape]
        if exact and (unknown := [name for name in value if name not in known]):
            raise ValueError(
                f"{where}: unknown field {_inside(field, unknown[0])!r}; known are {known}"
            )
    elif not _is(value, shape):
        _refuse(value, shape, where, field)


def _is(value: Any, shape: Any) -> bool:
    if isinstance(shape, Kind):
        return shape.test(value)
    return value is None if shape is None else isinstance(value, shape)


def _refuse(value: Any, shape: Any, where: str, field: str) -> None:
    said = f"{field} is" if field else "holds"
    shown = repr(value)
    shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"
    raise ValueError(f"{where}: {said} {shown}; expected {_said(shape)}")


def _said(shape: Any) -> str:
    """Returns a shape in words."""
    if isinstance(shape, Kind):
        return shape.name
    if isinstance(shape, tuple):
        return " or ".join(map(_said, shape))
    if isinstance(shape, list):
        return "a list"
    if isinstance(shape, dict):
        return "an object"
    return _NAMES.get(shape, "a value")


def _inside(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name
