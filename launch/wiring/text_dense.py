"""Passages found by their words and by a run's own embeddings: W/runs/NAME/passages."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from launch.wiring.experiment import experiment_of
from launch.wiring.program import Job, UsageError
from launch.wiring.text_index import load_index
from minirec.recommend.index import ExactIndex
from minirec.recommend.passages.bm25 import Bm25Index
from minirec.recommend.passages.embedding import (
    TokenMeans,
    dense_index,
    mean_vector,
    token_counts,
)
from minirec.recommend.passages.retriever import Retriever

FOLDER = "passages"
METHODS = ("bm25", "fused")


def load_retriever(job: Job, run: Any = None) -> Retriever:
    """Returns what finds passages as the config says.

    Args:
        job: whose corpus.
        run: its trained run, where it is loaded already.

    Raises:
        ValueError: an unknown method, or a step before this one has not run.
    """
    asked = job.config.retrieval
    if asked.method not in METHODS:
        raise UsageError(
            f"config.retrieval.method={asked.method!r}: must be one of {', '.join(METHODS)}"
        )
    if asked.candidates < 1 or not asked.rank_constant >= 0:
        raise UsageError(
            f"config.retrieval.candidates={asked.candidates}, rank_constant="
            f"{asked.rank_constant}: must be at least 1, and 0 or more"
        )
    index = load_index(job)
    if asked.method == "bm25":
        return Retriever(index)
    if run is None:
        run = experiment_of(job.config).load(job)
    dense, means = _dense(job, index, run)
    return Retriever(index, dense, means, asked.rank_constant, asked.candidates)


def _dense(job: Job, index: Bm25Index, run: Any) -> tuple[ExactIndex, TokenMeans]:
    """Returns the vectors of the passages, made where there are none of this run and corpus."""
    embedding = np.asarray(run.model.embedding[...], np.float32)
    encode = run.pieces.encode

    def texts() -> Iterator[str]:
        return (index.passages[number].all_text for number in range(len(index)))

    counts = token_counts(texts(), encode, len(embedding))
    means = TokenMeans(embedding, counts, encode, mean_vector(texts(), embedding, counts, encode))
    made_with = {
        "corpus": index.made_with["corpus"],
        "embedding": hashlib.sha256(embedding.tobytes()).hexdigest(),
    }
    folder = job.run / FOLDER
    if folder.is_dir():
        try:
            dense = ExactIndex.load(folder)
        except ValueError as error:  # Damaged: to be made again.
            print(f"note: {error}", file=sys.stderr)
        else:
            if dense.made_with == made_with:
                return dense, means
    dense = dense_index(texts(), means, made_with)
    dense.save(folder)
    return dense, means
