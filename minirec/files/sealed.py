"""JSON objects that carry a digest of themselves, so that damage is noticed when they are read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from minirec.files.atomic import write_json
from minirec.files.json_file import read_json
from minirec.files.schema import check

SEAL = "sha256"
"""The field that holds the digest of all the others, as JSON without spaces."""


class DamagedError(ValueError):
    """A file is not what the program that wrote it left."""


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the object with the digest of its content as its last field.

    Raises:
        ValueError: the object has such a field already, or holds what JSON cannot hold.
    """
    if SEAL in value:
        raise ValueError(f"field {SEAL!r} is taken: it holds the digest of the others")
    plain = json.loads(json.dumps(dict(value), allow_nan=False))
    return plain | {SEAL: _digest(plain)}


def unseal(value: Any, where: str | os.PathLike[str], remedy: str) -> dict[str, Any]:
    """Returns the object that `seal` was given.

    Args:
        value: what `seal` returned, as it was read.
        where: the file it was read from, for errors.
        remedy: what to do where it is damaged, for errors.

    Raises:
        DamagedError: it is not what `seal` returned.
    """
    if not isinstance(value, dict) or SEAL not in value:
        raise DamagedError(
            f"{where}: has no field {SEAL!r} with the digest of its content, so it is not as this "
            f"version of minirec writes it; {remedy}"
        )
    content = {name: entry for name, entry in value.items() if name != SEAL}
    if value[SEAL] != _digest(content):
        raise DamagedError(
            f"{where}: has been damaged or edited since it was written: {SEAL!r} is not the "
            f"digest of its content; {remedy}"
        )
    return content


def write_sealed(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Writes the sealed object as JSON to `path`, whole or not at all.

    Raises:
        ValueError: see `seal`.
    """
    write_json(path, seal(value))


def read_sealed(path: str | os.PathLike[str], remedy: str, shape: Any = object) -> dict[str, Any]:
    """Returns the object that `write_sealed` wrote to `path`.

    Args:
        path: the file.
        remedy: what to do where it is damaged, for errors.
        shape: what the object must look like, as `minirec.files.schema` writes it.

    Raises:
        DamagedError: the file is not what `write_sealed` wrote, or of another shape.
        OSError: it cannot be read.
    """
    try:
        value = unseal(read_json(path), path, remedy)
        check(value, shape, str(path))
    except DamagedError:
        raise
    except ValueError as error:
        raise DamagedError(f"{error}; {remedy}") from error
    return value


def _digest(content: Mapping[str, Any]) -> str:
    # In the order of the fields, which carries a meaning here and there.
    text = json.dumps(content, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
