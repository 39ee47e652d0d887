"""Whether an artifact's folder holds what its manifest says, byte for byte."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from minirec import files
from minirec.artifacts.manifest import Artifact, FileRecord

_HUB_NOTES = (".cache", "huggingface")  # huggingface-hub's own, where a person downloaded with it


def present_files(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the paths of all files below a folder, with `/`, sorted; without the hub's notes."""
    folder = Path(folder)
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in paths if path.parts[:2] != _HUB_NOTES)


def problems(
    artifact: Artifact, folder: str | os.PathLike[str], *, recorded_only: bool = False
) -> dict[str, str]:
    """Returns what is wrong with an artifact's folder: by file, wanted and found value.

    Args:
        artifact: what it must hold.
        folder: the artifact's folder.
        recorded_only: pass over what the manifest does not know yet; otherwise that is a problem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return {"": f"{folder}: there is no such folder"}
    present = present_files(folder)
    # What a link leads to is not in the folder, and a pipe would be waited for.
    found = {
        name: f"{folder / name}: a link or no plain file; an artifact's files lie in its folder"
        for name in present
        if (folder / name).is_symlink() or not (folder / name).is_file()
    }
    found |= {
        path.relative_to(folder).as_posix(): f"{path}: a link; an artifact's folders lie in its own"
        for path in folder.rglob("*")
        if path.is_symlink() and path.is_dir()
    }
    for name, wanted in artifact.files.items():
        path = folder / name
        if name in found:
            continue
        if name not in present:
            found[name] = f"{path}: missing"
            continue
        size = path.stat().st_size
        if wanted.size is not None and size != wanted.size:
            found[name] = f"{path}: size: wanted {wanted.size} bytes, found {size}"
        elif wanted.sha256 is not None and (sha256 := files.sha256(path)) != wanted.sha256:
            found[name] = f"{path}: sha256: wanted {wanted.sha256}, found {sha256}"
        elif wanted.sha256 is None and not recorded_only:
            found[name] = f"{path}: no sha256 is recorded; verify --record records it"
    if artifact.files:
        for name in sorted(set(present) - set(artifact.files) - set(found)):
            found[name] = f"{folder / name}: unexpected; the manifest does not list it"
    elif not recorded_only:
        found[""] = f"{folder}: no files are recorded; verify --record records those there"
    return found


def record(artifact: Artifact, folder: str | os.PathLike[str]) -> Artifact:
    """Returns the artifact with size and SHA-256 of every file that is there, filled in.

    What is recorded already is checked and never changed. Whoever records trusts the files as they
    are now: later checks say whether they are still the same, not whether they were right.

    Raises:
        ValueError: the folder holds nothing, or something else than what is recorded; the message
            has a line a file.
    """
    folder = Path(folder)
    wrong = problems(artifact, folder, recorded_only=True)
    if wrong:
        raise ValueError(describe(artifact, wrong))
    present = present_files(folder)
    if not present:
        raise ValueError(f"{artifact.name}: {folder}: holds no files")
    records = {
        name: FileRecord(
            artifact.files.get(name, FileRecord()).sha256 or files.sha256(folder / name),
            (folder / name).stat().st_size,
        )
        for name in present
    }
    return dataclasses.replace(artifact, files=records)


def describe(artifact: Artifact, wrong: dict[str, str]) -> str:
    """Returns the problems as one message."""
    return "\n  ".join([f"{artifact.name}: not what the manifest says:", *wrong.values()])
