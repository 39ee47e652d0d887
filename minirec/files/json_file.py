"""JSON from files: one reader for all of it, with limits, and errors that name the file.

What `json` lets through ends a program elsewhere, without the file's name: values nested deeper
than Python can follow, numbers that no float holds, half a character, a name that stands twice.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from minirec.files.pointers import check_fetched
from minirec.files.schema import check

_MOST_LEVELS = 100  # Nothing that is written here has ten.
_MOST_DIGITS = 300  # The largest float has 309.
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: str | os.PathLike[str], shape: Any = object, *, foreign: bool = False) -> Any:
    """Returns the JSON value in `path`.

    Args:
        path: the file, UTF-8 with or without a byte order mark.
        shape: what the value must look like, as `minirec.files.schema` writes it.
        foreign: another program's file, which may hold NaN and infinities.

    Raises:
        ValueError: the file is not JSON, or of another shape; the message names the file and the
            place.
        OSError: it cannot be read.
    """
    check_fetched(path)
    value = parse_json(Path(path).read_bytes(), f"{path}: not a JSON file", foreign=foreign)
    check(value, shape, str(path))
    return value


def read_json_lines(
    path: str | os.PathLike[str], shape: Any = object, *, may_be_cut: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yields the number, from 1, and the value of each line that is not empty.

    Args:
        path: the file.
        shape: what each value must look like, as `minirec.files.schema` writes it.
        may_be_cut: pass over a last line without a line end, which a kill may have left.

    Raises:
        ValueError: a line is not JSON, or of another shape; the message names file and line.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or (may_be_cut and not line.endswith(b"\n")):
                continue
            where = f"{path}, line {number}"
            value = parse_json(line, f"{where}: not JSON", foreign=False)
            check(value, shape, where)
            yield number, value


def parse_json(text: str | bytes, complaint: str, *, foreign: bool = False) -> Any:
    """Returns the JSON value of a text.

    Args:
        text: the text; bytes are UTF-8.
        complaint: begins the error, such as "sids.json: not a JSON file".
        foreign: NaN and infinities are allowed.

    Raises:
        ValueError: the text is not JSON, names a field twice, is nested too deep, or holds half a
            character, NaN, or a number beyond what floats hold.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = (_FOREIGN if foreign else _OWN).decode(text)
        _check_depth(value)
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{complaint}: a text in it holds half a character (\\ud800 …)") from None
    except RecursionError:
        raise ValueError(f"{complaint}: nested deeper than {_MOST_LEVELS} levels") from None
    except ValueError as error:  # JSON's and UTF-8's errors are of this kind.
        raise ValueError(f"{complaint}: {error}") from error
    return value


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MOST_LEVELS):
        if not level:
            return
        level = [
            entry
            for container in level
            for entry in (container.values() if type(container) is dict else container)
            if type(entry) is dict or type(entry) is list
        ]
    if level:
        raise RecursionError


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{name!r:.80} stands there twice")
    return fields


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits; there may be {_MOST_DIGITS}")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.40} is beyond what a float holds")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


_OWN = json.JSONDecoder(
    object_pairs_hook=_distinct,
    parse_int=_integer,
    parse_float=_real,
    parse_constant=_no_number,
)
_FOREIGN = json.JSONDecoder(object_pairs_hook=_distinct, parse_int=_integer)
