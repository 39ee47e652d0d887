"""A folder beside the place of what is being written; what killed programs left of it is cleared.

A workplace is `.NAME.partial-XXXXXXXX`. Its program holds a lock on it, which the system frees when
the program ends, however it ends: a workplace that nobody holds is what a killed one left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

_MARK = ".partial-"
_NAME = re.compile(rf"\.(.+){re.escape(_MARK)}[a-z0-9_]+", re.DOTALL)
_NEW, _OLD = "new", "old"


@contextlib.contextmanager
def workplace(path: Path) -> Generator[Path]:
    """Yields an empty folder `.NAME.partial-XXXXXXXX/new` beside `path`; it goes at the end.

    The folders above `path` are made. What killed programs left of the same path is cleared first.

    Raises:
        OSError: nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with locked(path.parent):  # Nobody may take it for a leftover before it is held.
            for leftover in _workplaces(path.parent, path.name):
                _clear(leftover)
            made = Path(tempfile.mkdtemp(prefix=f".{path.name}{_MARK}", dir=path.parent))
            stack.callback(shutil.rmtree, made, ignore_errors=True)
            stack.enter_context(locked(made))
        # One deeper, so that who works there may lock it in turn.
        (made / _NEW).mkdir()
        yield made / _NEW


def replace_folder(new: Path, folder: Path) -> None:
    """Puts the `new` of `workplace(folder)` in the place of `folder`, which is moved aside."""
    old = new.with_name(_OLD)
    with locked(folder.parent):  # Another one may want the same place.
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(new, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise


def clear_leftovers(folder: str | os.PathLike[str], *, recursive: bool = False) -> None:
    """Removes the workplaces in a folder that no living program holds.

    A folder that a kill left moved aside is put back. What cannot be removed is left.

    Args:
        folder: where to look; it may be missing.
        recursive: look in the folders below it too.
    """
    for place, names, _ in os.walk(folder):
        found = [name for name in names if _NAME.fullmatch(name)]
        for leftover in _workplaces(Path(place)) if found else ():
            with contextlib.suppress(OSError), locked(leftover.parent):
                _clear(leftover)
        names[:] = [name for name in names if recursive and name not in found]


def _workplaces(parent: Path, name: str | None = None) -> Iterator[Path]:
    for entry in sorted(parent.iterdir()):
        match = _NAME.fullmatch(entry.name)
        if match and name in (None, match[1]) and entry.is_dir() and not entry.is_symlink():
            yield entry


def _clear(leftover: Path) -> None:
    """Removes a workplace unless somebody holds it; its parent must be locked."""
    folder = leftover.parent / leftover.name[1:].rpartition(_MARK)[0]
    try:
        with locked(leftover, wait=False) as held:
            if not held:
                return  # Without locks nothing tells a leftover from what is being written.
            if (leftover / _OLD).is_dir() and not folder.exists():
                os.replace(leftover / _OLD, folder)
            shutil.rmtree(leftover, ignore_errors=True)
    except (BlockingIOError, FileNotFoundError, PermissionError):
        return  # Somebody is writing there, or clears it too, or it is another user's.


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Generator[bool]:
    """Holds a folder's lock; the system frees it when the program ends, however it ends.

    Yields:
        Whether it is held: False on a file system without locks.

    Raises:
        BlockingIOError: another program holds it, and `wait` is False.
    """
    try:
        place = os.open(folder, os.O_RDONLY)
    except PermissionError:
        if not wait:
            raise
        yield False  # A folder to write to and not to read from.
        return
    try:
        held = True
        try:
            fcntl.flock(place, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            held = False
        yield held
    finally:
        os.close(place)
