"""Passages of a corpus: W/text/train.jsonl, W/text/eval.jsonl and W/text/manifest.json.

A line holds `text`, `source_url` (the document it is of), `chunk_id` (its place there, from 0) and
`section_path` (the headings it stands below, the document's title first). The passages of a
document follow one another, in its order.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minirec import files
from minirec.files.schema import COUNT, SHA256, check

TEXT = "text"
"""The folder in a workdir."""

TRAIN, EVAL, MANIFEST = "train.jsonl", "eval.jsonl", "manifest.json"
REMEDY = "run launch.prepare_text --overwrite"
_PASSAGE = {"text": str, "source_url": str, "chunk_id": COUNT, "section_path": [str]}
_MANIFEST = {
    "config": dict,
    "inputs": dict,
    "counts": dict,
    "characters": dict,
    "files": {str: dict},
    "fingerprint": SHA256,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document.

    Attributes:
        text: what it says.
        source_url: the document.
        chunk_id: its place in the document, from 0.
        section_path: headings from the document's title on; empty where it has none.
    """

    text: str
    source_url: str
    chunk_id: int
    section_path: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The document's title; empty where it has none."""
        return self.section_path[0] if self.section_path else ""

    @property
    def section(self) -> str:
        """The headings below the title, as one text."""
        return " ".join(self.section_path[1:])

    def as_line(self) -> str:
        """Returns the passage as a line of the file, with its end."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False) + "\n"


def read_passages(path: str | Path) -> Iterator[Passage]:
    """Yields the passages of a file, one after the other, in the memory of one.

    Raises:
        ValueError: a line holds no passage; the message names file, line and field.
        OSError: the file cannot be read.
    """
    with Path(path).open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where}: is no JSON: {error}; {REMEDY}") from error
            check(value, _PASSAGE, where)
            yield Passage(
                value["text"],
                value["source_url"],
                value["chunk_id"],
                tuple(value["section_path"]),
            )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of the passages in a folder; their files must be as they were written.

    Raises:
        ValueError: there is none, or something has been damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path} is missing: run launch.prepare_text first")
    manifest = files.read_sealed(path, REMEDY, _MANIFEST)
    files.check_files(folder, manifest["files"], remedy=REMEDY)
    return manifest
