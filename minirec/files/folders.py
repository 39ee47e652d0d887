"""Folders that appear whole or not at all, whatever kills the program that writes them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path


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
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(folder.parent):
            _clear_leftovers(folder)
            workplace = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
            stack.callback(shutil.rmtree, workplace, ignore_errors=True)
            stack.enter_context(_locked(workplace))
        new, old = workplace / "new", workplace / "old"
        new.mkdir()
        yield new
        for path in sorted(new.rglob("*")):
            if path.is_file():
                _flush(path, path.relative_to(new).as_posix())
        with _locked(folder.parent):  # Another one may want the same place.
            if folder.exists():
                os.replace(folder, old)
            try:
                os.replace(new, folder)
            except BaseException:
                if old.exists():
                    os.replace(old, folder)
                raise


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


def _prefix(folder: Path) -> str:
    return f".{folder.name}.partial-"


def _clear_leftovers(folder: Path) -> None:
    for leftover in folder.parent.glob(f"{_prefix(folder)}*"):
        try:
            with _locked(leftover, wait=False):
                if (leftover / "old").exists() and not folder.exists():
                    os.replace(leftover / "old", folder)
                shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            continue  # Somebody is writing there.


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Generator[None]:
    """Holds a folder's lock; the system frees it when the program ends, however it ends."""
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(place)
