"""Published files that are not in this repository: which ones exactly, and whether they are there.

A manifest pins each artifact to a revision and its files to sizes and SHA-256 sums. What is named
here needs no JAX; `minirec.artifacts.probe`, which runs a checkpoint, does.
"""

from minirec.artifacts.download import download, instructions
from minirec.artifacts.manifest import (
    Artifact,
    FileRecord,
    default_artifacts,
    manifest_json,
    read_manifest,
    write_manifest,
)
from minirec.artifacts.verify import present_files, problems, record

__all__ = [
    "Artifact",
    "FileRecord",
    "default_artifacts",
    "download",
    "instructions",
    "manifest_json",
    "present_files",
    "problems",
    "read_manifest",
    "record",
    "write_manifest",
]
