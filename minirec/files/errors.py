"""Errors of the system, which often do not say what file they speak of."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator
from pathlib import Path

# What NumPy says of an array that did not fit the disk.
_NUMPYS = re.compile(r"\d+ requested and \d+ written")


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Checks that a folder can be written in, or made, before work whose result goes there.

    Raises:
        OSError: it cannot; the message names what stands in the way.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        raise OSError(f"{folder} cannot be written: {place} is read-only or another user's")


@contextlib.contextmanager
def naming(
    path: str | os.PathLike[str], *, workplace: Path | None = None, place: Path | None = None
) -> Generator[None]:
    """Puts a file's name into an OSError of the body that has none: a full disk's, mostly.

    Args:
        path: the file that the body writes.
        workplace: a folder that the body writes in for now.
        place: the folder that it stands for; errors that name something in the first name it there.

    Raises:
        OSError: in place of the body's, of the same kind where the system said which.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if error.errno is not None and workplace is not None and place is not None:
            named = Path(os.fsdecode(error.filename))
            if named.is_relative_to(workplace):
                name = str(place / named.relative_to(workplace))
                raise OSError(error.errno, error.strerror, name) from error
        if error.errno is None and _NUMPYS.fullmatch(str(error)):
            raise OSError(f"{path} cannot be written: {error}") from error
        raise
