"""Files that were never fetched: what Git LFS and git-annex leave in a file's place."""

from __future__ import annotations

import os
from pathlib import Path

_HEADS = {
    b"version https://git-lfs.github.com/spec/": ("Git LFS", "git lfs pull"),
    b"version https://hawser.github.com/spec/": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get"),
}
_MOST = 64


def check_fetched(path: str | os.PathLike[str]) -> None:
    """Raises ValueError if a file is a pointer in place of what it should hold.

    Raises:
        ValueError: it is; the message names the file and the command that fetches it.
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        head = file.read(_MOST)
    for mark, (kind, command) in _HEADS.items():
        if head.startswith(mark):
            raise ValueError(
                f"{path}: is a {kind} pointer, not the file itself; fetch it with '{command}'"
            )
