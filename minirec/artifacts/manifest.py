"""The manifest of artifacts: a JSON file that says what is pinned, and how each file must look."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from minirec import files

FORMAT_VERSION = 1
KINDS = ("model", "dataset", "source")
"""`model` and `dataset` are Hugging Face repositories; `source` is a GitHub one, recorded only."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """How a file must look; `None` is what is not known yet.

    Attributes:
        sha256: SHA-256 of its bytes, in lower-case hexadecimal.
        size: its bytes.
    """

    sha256: str | None = None
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A pinned folder of a public repository.

    Attributes:
        name: what it is called here, and its folder.
        kind: one of `KINDS`.
        repository: `owner/name`.
        revision: the commit, 40 hexadecimal digits; a branch or tag could move.
        subfolder: the part of the repository that is wanted; empty for all of it.
        files: by path below `subfolder`. Empty where none is known yet: they are then recorded
            when they are first seen (trust on first use).
    """

    name: str
    kind: str
    repository: str
    revision: str
    subfolder: str = ""
    files: Mapping[str, FileRecord] = dataclasses.field(default_factory=dict)

    @property
    def url(self) -> str:
        """The page that shows this revision."""
        if self.kind == "source":
            return f"https://github.com/{self.repository}/tree/{self.revision}"
        prefix = "datasets/" if self.kind == "dataset" else ""
        place = f"https://huggingface.co/{prefix}{self.repository}/tree/{self.revision}"
        return f"{place}/{self.subfolder}" if self.subfolder else place


def default_artifacts() -> dict[str, Artifact]:
    """Returns the published work that this project is measured against: MiniOneRec's."""
    artifacts = (
        Artifact(
            name="minionerec_industrial",
            kind="model",
            repository="kkknight/MiniOneRec",
            revision="365a03fc6601ed36abd69cc9a0a59025a3d31cdc",
            subfolder="Industrial_ckpt",
        ),
        Artifact(
            name="minionerec_source",
            kind="source",
            repository="AkaliKong/MiniOneRec",
            revision="8e03e354033fc81f830580f01c102bd7fbaa262a",
        ),
    )
    return {artifact.name: artifact for artifact in artifacts}


def manifest_json(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """Returns the manifest as the JSON value that its file holds."""
    entries = {
        name: {
            "kind": artifact.kind,
            "repository": artifact.repository,
            "revision": artifact.revision,
            "subfolder": artifact.subfolder,
            "files": {path: dataclasses.asdict(file) for path, file in artifact.files.items()},
        }
        for name, artifact in artifacts.items()
    }
    return {"format_version": FORMAT_VERSION, "artifacts": entries}


def write_manifest(path: str | os.PathLike[str], artifacts: Mapping[str, Artifact]) -> None:
    """Writes a manifest, whole or not at all."""
    files.write_json(path, manifest_json(artifacts))


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Artifact]:
    """Returns a manifest's artifacts by name.

    Raises:
        ValueError: the file is not a manifest; the message names file, artifact, field and value.
        FileNotFoundError: there is none.
    """
    value = files.read_json(path)
    if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path}: not a manifest of format_version {FORMAT_VERSION}")
    entries = value.get("artifacts")
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{path}: artifacts: expected an object of artifacts by name")
    return {name: _read_artifact(name, entry, f"{path}: {name}") for name, entry in entries.items()}


def _read_artifact(name: str, entry: Any, where: str) -> Artifact:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{where}: the name is a folder's: letters, digits, '.', '_' and '-'")
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: {entry!r}; expected an object")
    known = {field.name for field in dataclasses.fields(Artifact)} - {"name"}
    unknown = sorted(set(entry) - known)
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; known are {sorted(known)}")
    patterns = {
        "kind": (re.compile("|".join(KINDS)), f"one of {', '.join(KINDS)}"),
        "repository": (_REPOSITORY, "OWNER/NAME"),
        "revision": (_REVISION, "a commit of 40 hexadecimal digits; a branch or tag may move"),
    }
    for field, (pattern, expected) in patterns.items():
        text = entry.get(field)
        if not isinstance(text, str) or pattern.fullmatch(text) is None:
            raise ValueError(f"{where}: {field}: {text!r}; expected {expected}")
    subfolder = entry.get("subfolder", "")
    if subfolder != "":
        _check_path(subfolder, f"{where}: subfolder")
    records = entry.get("files", {})
    if not isinstance(records, dict):
        raise ValueError(f"{where}: files: {records!r}; expected an object of records by path")
    return Artifact(
        name=name,
        kind=entry["kind"],
        repository=entry["repository"],
        revision=entry["revision"],
        subfolder=subfolder,
        files={
            path: _read_record(path, record, f"{where}: files: {path!r}")
            for path, record in records.items()
        },
    )


def _read_record(path: str, record: Any, where: str) -> FileRecord:
    _check_path(path, where)
    if not isinstance(record, dict) or set(record) - {"sha256", "size"}:
        raise ValueError(f'{where}: {record!r}; expected {{"sha256": …, "size": …}}')
    sha256, size = record.get("sha256"), record.get("size")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ValueError(f"{where}: sha256: {sha256!r}; expected 64 hexadecimal digits or null")
    if size is not None and not (type(size) is int and size >= 0):
        raise ValueError(f"{where}: size: {size!r}; expected a number of bytes or null")
    return FileRecord(sha256, size)


def _check_path(path: Any, where: str) -> None:
    """Refuses what could lead out of the artifact's folder, or mean more than one file."""
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    if (
        not parts
        or path != "/".join(parts)
        or parts[0] == "/"
        or ".." in parts
        or set(path) & set("\\*?[]\n\0")
    ):
        raise ValueError(f"{where}: {path!r}; expected a plain relative path")
