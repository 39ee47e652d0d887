"""Digests of files that belong together, kept where they can be compared on the way back in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from minirec.cores import num_threads
from minirec.files.digest import sha256
from minirec.files.schema import COUNT, SHA256, check
from minirec.files.sealed import DamagedError, read_sealed, write_sealed

CHECKSUMS = "checksums.json"
"""The file that vouches for all others of its folder."""

_LARGE_BYTES = 16 << 20
_SHAPE = {str: {"sha256": SHA256, "bytes": COUNT}}
_known: dict[tuple[str, int, int, int, int], str] = {}


def checksums(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns `{name: {"sha256": …, "bytes": …}}` of files in a folder, in the order of `names`."""
    names = list(names)
    return dict(zip(names, _parallel(_checksum, [folder / name for name in names]), strict=True))


def check_files(
    folder: Path, expected: Any, names: Iterable[str] | None = None, *, remedy: str
) -> None:
    """Compares files of a folder with what `checksums` said of them; others are not looked at.

    A large file is read once a process for as long as the file system says that it is unchanged.

    Args:
        folder: where they lie.
        expected: what `checksums` returned.
        names: those to look at; None means all.
        remedy: what to do where one is damaged, for errors.

    Raises:
        DamagedError: a file is missing, or another one than it was; the message names it.
    """
    try:
        check(expected, _SHAPE, f"{folder}: checksums")
    except ValueError as error:
        raise DamagedError(f"{error}; {remedy}") from error
    names = list(expected) if names is None else list(names)
    for name in names:
        if name not in expected:
            raise DamagedError(f"{folder / name}: there is no digest of it; {remedy}")
        if not (folder / name).is_file():
            raise DamagedError(f"{folder / name} is missing; {remedy}")
    found = _parallel(_checksum, [folder / name for name in names])
    for name, checksum in zip(names, found, strict=True):
        if checksum != expected[name]:
            there, then = (
                f"{entry['bytes']} bytes with SHA-256 {entry['sha256'][:16]}…"
                for entry in (checksum, expected[name])
            )
            raise DamagedError(
                f"{folder / name}: has been damaged or replaced since it was written: it holds "
                f"{there}, and held {then}; {remedy}"
            )


def write_checksums(folder: Path) -> None:
    """Writes `checksums.json` for all files that lie in a folder and below it.

    It comes last: a folder that has it is whole.
    """
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    names = [name for name in names if name != CHECKSUMS]
    write_sealed(folder / CHECKSUMS, {"files": checksums(folder, names)})


def check_folder(folder: Path, names: Iterable[str] | None = None, *, remedy: str) -> None:
    """Compares the files of a folder with its `checksums.json`; see `check_files`.

    Raises:
        DamagedError: a file is missing, or another one than it was; the message names it.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        raise DamagedError(f"{path} is missing, so nothing vouches for the files there; {remedy}")
    check_files(folder, read_sealed(path, remedy).get("files"), names, remedy=remedy)


def _checksum(path: Path) -> dict[str, Any]:
    about = path.stat()
    size = about.st_size
    if size < _LARGE_BYTES:
        return {"sha256": sha256(path), "bytes": size}
    key = (str(path), about.st_ino, size, about.st_mtime_ns, about.st_ctime_ns)
    if key not in _known:
        _known[key] = sha256(path)
    return {"sha256": _known[key], "bytes": size}


def _parallel[T](work: Callable[[Path], T], paths: list[Path]) -> list[T]:
    # Hashing lets other threads run.
    with ThreadPoolExecutor(num_threads()) as pool:
        return list(pool.map(work, paths))
