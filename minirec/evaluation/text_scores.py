"""How probable a language model finds documents, token by token, and what measures follow."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from minirec.models.vocabulary import merged

MEASURES = ("perplexity", "bits_per_byte", "word_perplexity", "compression")
_AT_ONCE = 512  # positions whose logits are held at one time


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Documents cut into windows of one length, each token predicted in one of them.

    Attributes:
        tokens: int32 `[n, T + 1]`; what stands behind a document's end is never asked for.
        asked: bool `[n, T]`, which of the tokens from the second on are predicted here.
    """

    tokens: Int32[np.ndarray, "n W"]
    asked: Bool[np.ndarray, "n T"]

    @classmethod
    def of_documents(
        cls, documents: Sequence[Int[np.ndarray, " m"]], size: int, overlap: int = 0
    ) -> Windows:
        """Returns the windows of documents, all of whose tokens but the first are predicted.

        Args:
            documents: tokens of each, at least two.
            size: `T`, tokens that are read.
            overlap: so many tokens of a window have been predicted in the one before it, and are
                there to be read: no token but a document's first ones lacks as many before it.

        Raises:
            ValueError: no documents, or an overlap that leaves nothing to predict.
        """
        if not documents or not 0 <= overlap < size:
            raise ValueError(
                f"{len(documents)} documents in windows of {size} that overlap by {overlap}: there "
                "must be documents, and an overlap from 0 to below the window"
            )
        tokens, asked = [], []
        for document in documents:
            last = len(document) - 1  # Predicted are the places 1 … last.
            done = 0
            while done < last:
                first = max(0, done - overlap) if done else 0
                end = min(first + size, last)
                row = np.zeros(size + 1, np.int32)
                row[: end - first + 1] = document[first : end + 1]
                place = np.arange(size)
                tokens.append(row)
                asked.append((place >= done - first) & (place < end - first))
                done = end
        return cls(np.stack(tokens), np.stack(asked))


def score(
    model: Any, windows: Windows, begins: Bool[np.ndarray, " V"], batch_size: int
) -> tuple[Float32[np.ndarray, " tokens"], Float32[np.ndarray, " tokens"]]:
    """Returns each token's log-probability and that of its place's tokens that begin a word.

    Both are in nats, of the predicted tokens, document after document.

    Args:
        model: `SidDecoder`, or what has its `__call__` and `head_parts`.
        windows: what is read.
        begins: which tokens of the vocabulary end the word before them.
        batch_size: windows at a time.
    """
    plain, found, masses = merged(model), [], []
    size = min(batch_size, len(windows.tokens))
    for start in range(0, len(windows.tokens), size):
        part = windows.tokens[start : start + size]
        rows = np.zeros((size, part.shape[1]), np.int32)
        rows[: len(part)] = part
        asked = windows.asked[start : start + size]
        scores = _scores(plain, rows, np.asarray(begins))
        for values, kept in zip(scores, (found, masses), strict=True):
            kept.append(np.asarray(values)[: len(part)][asked])
    return np.concatenate(found), np.concatenate(masses)


@jax.jit
def _scores(
    model: Any, windows: Int[Array, "B W"], begins: Bool[Array, " V"]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    tokens, targets = windows[:, :-1], windows[:, 1:]
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = model(tokens, positions, jnp.ones_like(tokens))

    def of_place(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        logits = model.logits(inputs[0]).astype(jnp.float32)
        highest = jnp.max(logits)
        exponential = jnp.exp(logits - highest)
        total = jnp.log(jnp.sum(exponential))
        begin = jnp.log(jnp.sum(jnp.where(begins[: len(logits)], exponential, 0.0)))
        return logits[inputs[1]] - highest - total, begin - total

    flat = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    scores = jax.lax.map(of_place, flat, batch_size=_AT_ONCE)
    return scores[0].reshape(tokens.shape), scores[1].reshape(tokens.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class TextMeasure:
    """Measures a model on documents.

    Attributes:
        windows: of the documents.
        begins: which tokens of the vocabulary end the word before them.
        num_bytes: of the documents' UTF-8.
        num_words: of the documents; see `minirec.evaluation.words`.
        batch_size: windows at a time.
    """

    windows: Windows
    begins: Bool[np.ndarray, " V"]
    num_bytes: int
    num_words: int
    batch_size: int = 16

    def __call__(self, model: Any) -> dict[str, float]:
        """Returns the measures of a model; see `measures`."""
        return self.of_scores(score(model, self.windows, self.begins, self.batch_size)[0])

    def of_scores(self, log_probs: Float32[np.ndarray, " tokens"]) -> dict[str, float]:
        """Returns the measures of what `score` found."""
        return measures(log_probs, self.num_bytes, self.num_words)


def measures(
    log_probs: Float32[np.ndarray, " tokens"], num_bytes: int, num_words: int
) -> dict[str, float]:
    """Returns what the tokens' log-probabilities make.

    `perplexity` is a token's, by google-metrax; `bits_per_byte` and `word_perplexity` do not depend
    on the tokenizer, and count the documents' ends among the costs, not among bytes and words.
    `compression` is 8 over the bits a byte: larger is better.

    Raises:
        ValueError: google-metrax is not installed.
    """
    total = float(-np.sum(log_probs, dtype=np.float64))
    bits = total / math.log(2) / num_bytes
    return {
        "perplexity": _perplexity()(total, len(log_probs)),
        "bits_per_byte": bits,
        "word_perplexity": math.exp(min(total / num_words, 700.0)),
        "compression": 8 / bits,
    }


@functools.cache
def _perplexity() -> Callable[[float, int], float]:
    try:
        metric = importlib.import_module("metrax").Perplexity
    except ImportError as error:
        raise ValueError(
            f"{error.name} is missing: perplexity needs pip install 'minirec[text]'"
        ) from error

    def compute(total: float, count: int) -> float:
        return float(metric(jnp.float32(total), jnp.float32(count)).compute())

    return compute
