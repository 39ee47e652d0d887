"""What the steps of the family `text` leave before its model, and how later ones read it back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from launch.wiring import made_with
from launch.wiring.program import Job, UsageError
from pipelines.text import passages, pieces
from pipelines.text.corpus.config import CorpusConfig
from pipelines.text.corpus.prepare import corpus_inputs

TOKENIZER = "tokenizer"


def text_folder(job: Job) -> Path:
    """Returns where the passages lie."""
    return job.workdir / passages.TEXT


def tokenizer_folder(job: Job) -> Path:
    """Returns where the tokenizer lies."""
    return job.workdir / TOKENIZER


def require_text(job: Job, step: str) -> None:
    """Raises UsageError unless the config is of a text model; `step` is the program's name."""
    if job.config.family != "text":
        raise UsageError(
            f"config {job.config.name!r} is of the family {job.config.family!r}: {step} needs one "
            "of the family 'text', such as --config=text_quickstart"
        )


def corpus_config(job: Job) -> CorpusConfig:
    """Returns the checked settings of the corpus.

    Raises:
        ValueError: a field has a value that cannot be.
    """
    return CorpusConfig.from_mapping(job.config.corpus.to_dict())


def load_corpus(job: Job) -> dict[str, Any]:
    """Returns the manifest of W/text, once it is found to be of the config at hand.

    Raises:
        ValueError: there is none, it has been damaged, or it is of another config or documents.
    """
    manifest = passages.read_manifest(text_folder(job))
    where = text_folder(job) / passages.MANIFEST
    differences = made_with.part_differences(job.config, "corpus", manifest["config"])
    if differences:
        raise UsageError(
            f"{where}: {'; '.join(differences)}: run launch.prepare_text --overwrite to have the "
            "passages as this config says, or take the config that they were made with"
        )
    asked, there = job.config.corpus.folder, manifest["config"]["folder"]
    if asked != there:
        _check_inputs(job, manifest, where)
    return manifest


def _check_inputs(job: Job, manifest: dict[str, Any], where: Path) -> None:
    """Raises UsageError where another folder holds other documents than those of a manifest."""
    try:
        inputs = corpus_inputs(corpus_config(job))
    except ValueError:
        print(
            f"note: config.corpus.folder is {job.config.corpus.folder!r}, where the documents of "
            f"{where} do not lie: the passages are taken as they are",
            file=sys.stderr,
        )
        return
    if inputs != manifest["inputs"]:
        raise UsageError(
            f"config.corpus.folder={job.config.corpus.folder!r} holds other documents than those "
            f"of {where}, from {manifest['config']['folder']!r}: run launch.prepare_text "
            "--overwrite, or take another --workdir"
        )


def load_tokenizer(job: Job) -> tuple[pieces.Pieces, dict[str, Any]]:
    """Returns the tokenizer of W/tokenizer and what made it.

    Raises:
        ValueError: there is none, it has been damaged, or it is of another config or corpus.
    """
    folder = tokenizer_folder(job)
    record = pieces.read_record(folder)
    differences = made_with.part_differences(job.config, "tokenizer", record["config"])
    if record["corpus"] is not None and record["corpus"] != load_corpus(job)["fingerprint"]:
        differences.append(f"it was trained on other passages than those in {text_folder(job)}")
    if differences:
        raise UsageError(
            f"{folder / pieces.RECORD}: {'; '.join(differences)}: run launch.train_tokenizer "
            "--overwrite to have the tokenizer as this config says, or take the config that it was "
            "made with"
        )
    return pieces.load_pieces(folder), record
