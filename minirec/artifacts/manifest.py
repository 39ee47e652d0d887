"""The manifest of artifacts: a JSON file that says what is pinned, and how each file must look."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from minirec import files
from minirec.files.schema import COUNT, SHA256, Kind, check

FORMAT_VERSION = 1
KINDS = ("model", "dataset", "source")
"""`model` and `dataset` are Hugging Face repositories; `source` is a GitHub one, recorded only."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REPOSITORY = re.compile(rf"{_NAME.pattern}/{_NAME.pattern}")
_REVISION = re.compile(r"[0-9a-f]{40}")


def _is_path(value: Any) -> bool:
    """Returns whether a path can neither lead out of the artifact's folder nor mean several files.

    A pattern would mean several, and a part that is spelled in two ways would be two names of one.
    """
    parts = PurePosixPath(value).parts if isinstance(value, str) else ()
    is_plain = bool(parts) and value == "/".join(parts) and not set(value) & set("\\*?[]\n\0")
    return is_plain and parts[0] != "/" and ".." not in parts


def _text(name: str, pattern: re.Pattern[str]) -> Kind:
    return Kind(name, lambda value: isinstance(value, str) and bool(pattern.fullmatch(value)))


_PATH = Kind("a plain relative path", _is_path)
_ENTRY = {
    "kind": _text(f"one of {', '.join(KINDS)}", re.compile("|".join(KINDS))),
    "repository": _text("OWNER/NAME", _REPOSITORY),
    "revision": _text("a commit of 40 hexadecimal digits; a branch or tag may move", _REVISION),
    "subfolder?": (Kind("empty", lambda value: value == ""), _PATH),
    "files?": {str: {"sha256?": (SHA256, None), "size?": (COUNT, None)}},
}


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
    check(entry, _ENTRY, where, exact=True)
    records = entry.get("files", {})
    for path in records:
        check(path, _PATH, f"{where}: files")
    found = {path: FileRecord(**record) for path, record in records.items()}
    return Artifact(name=name, **(entry | {"files": found}))
