"""Vectors of texts from a language model's own token embeddings.

A text's vector is the mean of its tokens' rows, rare tokens before frequent ones, less the mean of
all passages (Arora, Liang and Ma, "A simple but tough-to-beat baseline for sentence embeddings",
ICLR 2017, with the mean in place of the first component).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64

from minirec.recommend.index import ExactIndex

Encode = Callable[[Sequence[str]], list[Int32[np.ndarray, " n"]]]
_RARE = 1e-3  # share of all tokens at which one counts half
_AT_ONCE = 1024  # texts


class TokenMeans:
    """Turns texts into vectors of length 1; a text without tokens becomes zeros."""

    def __init__(
        self,
        embedding: Float[np.ndarray, "V D"],
        counts: Int[np.ndarray, " V"],
        encode: Encode,
        mean: Float[np.ndarray, " D"] | None = None,
    ):
        """Weighs the tokens.

        Args:
            embedding: a row a token.
            counts: how often each occurs in the passages.
            encode: from texts to tokens.
            mean: of the passages; None: nothing is taken off.
        """
        weight = _RARE / (_RARE + counts / max(int(counts.sum()), 1))
        self._rows = np.asarray(embedding, np.float32) * weight.astype(np.float32)[:, None]
        self._encode = encode
        self.mean = np.zeros(self._rows.shape[1], np.float32) if mean is None else mean

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Returns the vectors of texts."""
        found, there = self.weighted(texts)
        found[there] -= self.mean
        length = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.where(length > 0, length, 1)

    def weighted(
        self, texts: Sequence[str]
    ) -> tuple[Float32[np.ndarray, "n D"], Bool[np.ndarray, " n"]]:
        """Returns the weighted means of texts' tokens, and which have any."""
        found = np.zeros((len(texts), self._rows.shape[1]), np.float32)
        there = np.zeros(len(texts), bool)
        for row, tokens in enumerate(self._encode(texts)):
            if len(tokens):
                found[row], there[row] = self._rows[tokens].mean(axis=0), True
        return found, there


def token_counts(texts: Iterable[str], encode: Encode, num_tokens: int) -> Int64[np.ndarray, " V"]:
    """Returns how often each token occurs in some texts."""
    counts = np.zeros(num_tokens, np.int64)
    for some in itertools.batched(texts, _AT_ONCE):
        for tokens in encode(list(some)):
            counts += np.bincount(tokens, minlength=num_tokens)
    return counts


def mean_vector(
    texts: Iterable[str],
    embedding: Float[np.ndarray, "V D"],
    counts: Int[np.ndarray, " V"],
    encode: Encode,
) -> Float32[np.ndarray, " D"]:
    """Returns the mean of the texts' weighted means, which `TokenMeans` takes off each."""
    plain = TokenMeans(embedding, counts, encode)
    total, number = np.zeros(plain.mean.shape, np.float64), 0
    for some in itertools.batched(texts, _AT_ONCE):
        vectors, there = plain.weighted(list(some))
        total += vectors.sum(axis=0, dtype=np.float64)
        number += int(there.sum())
    return (total / max(number, 1)).astype(np.float32)


def dense_index(
    texts: Iterable[str], means: TokenMeans, made_with: dict[str, object]
) -> ExactIndex:
    """Returns the vectors of passages, to be searched and kept."""
    parts = [means.embed(list(some)) for some in itertools.batched(texts, _AT_ONCE)]
    return ExactIndex(np.concatenate(parts), made_with)
