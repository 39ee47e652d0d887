"""Files that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minirec.files.errors import naming
from minirec.files.workplace import workplace


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; a clean exit renames it to `path`.

    The temporary file is flushed to disk before the rename, and removed when the body raises, so
    that a reader never sees half a file. Parent folders are made. What killed programs left of the
    same file is cleared first.

    Args:
        path: where the file shall be.

    Yields:
        The path to write to. It has the suffix of `path` and does not exist yet.

    Raises:
        OSError: the disk is full or refuses to be written; it names `path`.
    """
    path = Path(path)
    with workplace(path) as folder, naming(path, workplace=folder, place=path.parent):
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Writes `value` as JSON to `path`, whole or not at all.

    Raises:
        ValueError: `value` holds NaN or an infinity, which JSON has no word for.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")
