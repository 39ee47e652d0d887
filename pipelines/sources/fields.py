"""What sources share: config fields, input files, lists written as text."""

from __future__ import annotations

import ast
import dataclasses
import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minirec import files

# By how a config dataclass annotates a field.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
}
_MAX_LITERAL = 1 << 20  # characters, of which Python's parser makes 200 bytes each
_LONG_NUMBER = re.compile(r"0[xXoObB][0-9a-fA-F_]{3000}")
NAMES = "tuple[str, ...]"
NUMBERS = "Mapping[str, float]"
SETTINGS = "Mapping[str, Any]"


def from_mapping(kind: type, fields: Mapping[str, Any], where: str) -> Any:
    """Builds the config dataclass `kind` from plain values.

    A field is text, a number, a truth value, a list of names (or text such as "title,brand") a
    mapping of names to numbers (or text such as "view=1,cart=3"): the texts are for command lines;
    or a mapping of names to settings that the source checks itself.

    Raises:
        ValueError: an unknown field, one without a default that is missing, or a wrong type.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in fields:
        if name not in known:
            raise ValueError(f"{where} has no field {name!r}; its fields: {', '.join(known)}")
    for name, field in known.items():
        has_default = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if name not in fields and not has_default:
            raise ValueError(f"{where} needs the field {name!r}")
    return kind(
        **{
            name: _value(value, _annotation(known[name]), f"{where}: {name}")
            for name, value in fields.items()
        }
    )


def _annotation(field: dataclasses.Field[Any]) -> str:
    return field.type.__name__ if isinstance(field.type, type) else str(field.type)


def _value(value: Any, annotation: str, where: str) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if annotation == NAMES:
        return _names(value, where)
    if annotation == NUMBERS:
        return _numbers(value, where)
    if annotation == SETTINGS:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r:.80}; it must map names to values")
        return dict(value)
    is_bool = isinstance(value, bool)
    if not isinstance(value, _TYPES[annotation]) or is_bool != (annotation == "bool"):
        raise ValueError(f"{where} is {value!r}; it must be of type {annotation}")
    return value


def _names(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")] if value.strip() else []
    is_list = isinstance(value, list | tuple)
    if not is_list or not all(isinstance(name, str) and name for name in value):
        raise ValueError(f"{where} is {value!r}; it must be a list of names, or text such as 'a,b'")
    if len(set(value)) < len(value):
        raise ValueError(f"{where} is {value!r}; a name stands there twice")
    return tuple(value)


def _numbers(value: Any, where: str) -> dict[str, float]:
    numbers: dict[str, float] = {}
    try:
        if isinstance(value, str):
            entries = value.split(",") if value.strip() else []
            pairs = [
                (name.strip(), float(number))
                for name, _, number in (entry.rpartition("=") for entry in entries)
            ]
        else:
            pairs = [(name, float(number)) for name, number in value.items()]
        for name, number in pairs:
            if not isinstance(name, str) or not name or name in numbers:
                raise ValueError(f"name {name!r}")
            if isinstance(value, Mapping) and isinstance(value[name], bool | str):
                raise ValueError(f"number {value[name]!r}")
            numbers[name] = number
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where} is {value!r}; it must map each name, once, to a number, or be text such as "
            "'view=1,cart=3'"
        ) from error
    return numbers


def input_file(folder: str, name: str, what: str) -> Path:
    """Returns `folder/name`; a name with a `*` is a pattern that one file must match.

    Raises:
        ValueError: there is no such file, several match, or it was never fetched.
    """
    path = Path(folder) / name
    if "*" in path.name:
        return only_file(str(path.parent), path.name, what)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {what} is read from it")
    files.check_fetched(path)
    return path


def input_files(folder: str, name: str, what: str) -> list[tuple[str, Path]]:
    """Returns the files that `folder/name` names, each after what it is called in a manifest.

    Args:
        folder: where they lie; may be empty.
        name: of a file, or a pattern such as `day=*/part-*.csv` (`**` for folders of any depth).
        what: is read from them, for the message.

    Returns:
        Name and path, in order of the names: relative to the folder where they lie in it.

    Raises:
        ValueError: no name, no such file, or one that was never fetched.
    """
    if not name:
        raise ValueError(f"no file is named to read {what} from; set it in the source's config")
    path = Path(folder) / name
    if path.is_file():
        found = [path]
    elif glob.has_magic(name):
        matches = glob.glob(str(Path(glob.escape(folder)) / name), recursive=True)
        found = [Path(match) for match in matches if Path(match).is_file()]
    elif path.is_dir():
        raise ValueError(f"{path}: is a folder; name its files, such as {name}/*.parquet")
    else:
        found = []
    if not found:
        raise ValueError(f"{path}: no such file; {what} is read from it")
    for file in found:
        files.check_fetched(file)
    named = {
        (file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)): file
        for file in found
    }
    if len(named) < len(found):  # of different folders: the whole path must tell them apart
        named = {file: file for file in found}
    return sorted((name.as_posix(), file) for name, file in named.items())


def only_file(folder: str, pattern: str, what: str) -> Path:
    """Returns the one file of `folder` that matches `pattern`.

    Raises:
        ValueError: there is none, or more than one, or it was never fetched.
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
    files.check_fetched(found[0])
    return found[0]


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Returns the JSON object in `path`, which maps items to `what`.

    Raises:
        ValueError: the file is not JSON as `minirec.files.read_json` wants it, or holds no object.
    """
    value = files.read_json(path, foreign=True)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}; it must map items to {what}")
    return value


def text_list(text: str) -> list[Any] | None:
    """Returns the list that a Python literal spells, or None where the text is not such a literal.

    None as well for text of more than a million characters and for a number that Python cannot
    write: either would end the program where it is used.
    """
    if len(text) > _MAX_LITERAL or _LONG_NUMBER.search(text):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None
