"""Folders that appear whole or not at all, whatever kills the program that writes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from minirec.files.errors import naming
from minirec.files.workplace import replace_folder, workplace


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Generator[Path]:
    """Yields an empty folder beside `folder` that takes its place on a clean exit.

    What killed programs have left of the same folder is cleared away first: a lock, which dies
    with its program, tells it from what another one is writing. A data set that a kill left moved
    aside is put back.

    Args:
        folder: where the result shall be; a folder that lies there is replaced.

    Raises:
        OSError: the disk is full or refuses to be written.
    """
    with workplace(folder) as new, naming(folder, workplace=new, place=folder):
        yield new
        for path in sorted(new.rglob("*")):
            if path.is_file():
                _flush(path, path.relative_to(new).as_posix())
        replace_folder(new, folder)


def _flush(path: Path, name: str) -> None:
    """Waits until a file is on the disk, which may be found full only now."""
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                f"{name} cannot be written: {error}; nothing is left half-written: make room, or "
                "choose another disk, and run again"
            ) from error
