"""The passages of a corpus as they are found: W/index, made where a program first needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch.wiring import made_with
from launch.wiring.program import Job
from launch.wiring.text_corpus import load_corpus, text_folder
from minirec.recommend.passages.bm25 import Bm25Index, Bm25Settings
from minirec.recommend.passages.gate import Gate
from minirec.recommend.passages.passage import Passage
from pipelines.text.passages import EVAL, TRAIN, read_passages

INDEX = "index"
"""The folder in a workdir."""


def bm25_settings(job: Job) -> Bm25Settings:
    """Returns the checked settings of the index.

    Raises:
        ValueError: a field has a value that cannot be.
    """
    asked = job.config.retrieval
    return Bm25Settings(asked.title_weight, asked.section_weight, asked.k1, asked.b)


def gate_of(job: Job) -> Gate:
    """Returns the gate that the config describes.

    Raises:
        ValueError: a field has a value that cannot be.
    """
    asked = job.config.gate
    if asked.passages < 1:
        raise ValueError(f"config.gate.passages={asked.passages}: must be at least 1")
    words = frozenset(word.casefold() for word in asked.stop_words)
    return Gate(asked.min_keyword_matches, asked.match_ratio, words)


def all_passages(job: Job) -> Iterator[Passage]:
    """Yields the corpus's passages, of training and of evaluation: a chat may quote all."""
    for name in (TRAIN, EVAL):
        for passage in read_passages(text_folder(job) / name):
            yield Passage(passage.text, passage.source_url, passage.section_path)


def load_index(job: Job) -> Bm25Index:
    """Returns the index of the corpus; it is made where there is none of this config and corpus.

    Raises:
        ValueError: there is no corpus, it is of another config, or `bm25s` is not installed.
    """
    settings = bm25_settings(job)
    folder = job.workdir / INDEX
    made = _made_with(job)
    if folder.is_dir():
        try:
            index = Bm25Index.load(folder)
        except ValueError as error:  # Damaged: to be made again.
            print(f"note: {error}", file=sys.stderr)
        else:
            if index.made_with == made:
                return index
            print(f"note: {folder}: is of other settings or passages: made again", file=sys.stderr)
    return Bm25Index.build(folder, all_passages(job), settings, made)


def _made_with(job: Job) -> dict[str, Any]:
    """What shapes an index."""
    fields = ("title_weight", "section_weight", "k1", "b")
    asked = made_with.block(job.config, "retrieval")
    return {
        "corpus": load_corpus(job)["fingerprint"],
        "config": {name: asked[name] for name in fields},
    }


def index_folder(job: Job) -> Path:
    """Returns where the index lies."""
    return job.workdir / INDEX
