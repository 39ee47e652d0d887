"""Finds passages for a question: by their words, and by a model's embeddings if there are any."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from minirec.recommend.index import ExactIndex
from minirec.recommend.passages.bm25 import Bm25Index
from minirec.recommend.passages.fusion import reciprocal_rank


class Embedder(Protocol):
    """What turns texts into vectors whose product says how alike they are."""

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "n E"]:
        """Returns a vector of length 1 a text."""
        ...


@dataclasses.dataclass(frozen=True)
class Retriever:
    """Finds passages.

    Attributes:
        bm25: finds them by their words.
        dense: their vectors, by number; None: only words count.
        embedder: makes a question's vector.
        rank_constant: of the fusion of both.
        candidates: of each list that is fused.
    """

    bm25: Bm25Index
    dense: ExactIndex | None = None
    embedder: Embedder | None = None
    rank_constant: float = 60.0
    candidates: int = 50

    def search(self, question: str, k: int) -> Int[np.ndarray, " k_or_fewer"]:
        """Returns the numbers of the best passages, best first."""
        if self.dense is None or self.embedder is None:
            return self.bm25.search(question, k)
        candidates = max(k, self.candidates)
        by_words = self.bm25.search(question, candidates)
        vector = self.embedder.embed([question])
        by_vector, _ = self.dense.search(vector, min(candidates, len(self.bm25)))
        fused = reciprocal_rank([by_words, by_vector[0]], self.rank_constant)
        return np.array([number for number, _ in fused[:k]], np.int64)
