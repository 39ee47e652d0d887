"""What sources share: config fields, input files, lists written as text."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# By how a config dataclass annotates a field (as text, since annotations are postponed).
_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str | Mapping[str, float]": (str, Mapping),
}


def from_mapping(kind: type, fields: Mapping[str, Any], where: str) -> Any:
    """Builds the config dataclass `kind`, whose fields are text, numbers and truth values.

    Raises:
        ValueError: an unknown field, one without a default that is missing, or a wrong type.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in fields:
        if name not in known:
            raise ValueError(f"{where} has no field {name!r}; its fields: {', '.join(known)}")
    for name, field in known.items():
        if name not in fields and field.default is dataclasses.MISSING:
            raise ValueError(f"{where} needs the field {name!r}")
    values = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in fields.items()
    }
    for name, value in values.items():
        annotation = str(known[name].type)
        is_bool = isinstance(value, bool)
        if not isinstance(value, _TYPES[annotation]) or is_bool != (annotation == "bool"):
            raise ValueError(f"{where}: {name} is {value!r}; it must be of type {annotation}")
    return kind(**values)


def input_file(folder: str, name: str, what: str) -> Path:
    """Returns `folder/name`; a name with a `*` is a pattern that one file must match.

    Raises:
        ValueError: there is no such file, or several match.
    """
    path = Path(folder) / name
    if "*" in path.name:
        return only_file(str(path.parent), path.name, what)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {what} is read from it")
    return path


def input_files(folder: str, name: str, what: str) -> dict[str, Path]:
    """Returns `folder/name`, or all files that match the pattern, in the order of their names.

    Returns:
        The files by their path below `folder`, which does not depend on where it lies.

    Raises:
        ValueError: there is none.
    """
    if not name:
        raise ValueError(f"{folder}: no file is named; {what} is read from one")
    if "*" not in name:
        return {name: input_file(folder, name, what)}
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder; {what} is read from {name} in it")
    found = sorted(path for path in Path(folder).glob(name) if path.is_file())
    if not found:
        raise ValueError(f"{Path(folder) / name}: no file matches; {what} is read from it")
    return {path.relative_to(folder).as_posix(): path for path in found}


def only_file(folder: str, pattern: str, what: str) -> Path:
    """Returns the one file of `folder` that matches `pattern`.

    Raises:
        ValueError: there is none, or more than one.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder; {what} is read from {pattern} in it")
    found = sorted(path for path in Path(folder).glob(pattern) if path.is_file())
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(
            f"{Path(folder) / pattern}: expected exactly one file with {what}, found {names}; "
            "name it in the source's config"
        )
    return found[0]


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Returns the JSON object in `path`, which maps items to `what`.

    Raises:
        ValueError: the file is not JSON, holds no object, or has a key twice (of which JSON
            readers silently keep the last).
    """

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"{path}: key {twice!r} is there more than once; it must be unique")
        return mapping

    try:
        text = path.read_text(encoding="utf-8-sig")
        value = json.loads(text, object_pairs_hook=without_duplicates)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}; it must map items to {what}")
    return value


def text_list(text: str) -> list[Any] | None:
    """Returns the list that a Python literal spells, or None where the text is no such literal."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None
