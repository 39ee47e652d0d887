"""Text to vectors as a catalogue's were made: the terms, their weights and the SVD's directions."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

import numpy as np
import scipy.sparse
from jaxtyping import Float, Float32, Float64

from minirec import files
from minirec.files.schema import NUMBER

# Rows weaker than this, beside the strongest, are rounding.
_TOLERANCE = 1e-6
_WORD = re.compile(r"\b\w+\b")
_TERMS = {"words": [str], "attributes": ([str], None), "scale": NUMBER}


def split_words(texts: Iterable[str | None]) -> Iterator[list[str]]:
    """Yields each text's words, in lower case."""
    return (_WORD.findall((text or "").lower()) for text in texts)


@dataclasses.dataclass(frozen=True, eq=False)
class TermWeights:
    """Sublinear TF-IDF over a catalogue's terms.

    Attributes:
        column_of: each term's column.
        inverse_frequency: `[terms]`; 0 for terms of a single item, which say nothing of others.
        table: `[N, terms]` the catalogue's rows, of length one.
    """

    column_of: Mapping[str, int]
    inverse_frequency: Float64[np.ndarray, " terms"]
    table: scipy.sparse.csr_array

    @classmethod
    def fit(cls, documents: Iterable[Iterable[str]]) -> Self:
        """Returns the weights over the terms of some documents."""
        column_of: dict[str, int] = {}
        columns: list[int] = []
        ends = [0]
        for document in documents:
            columns.extend(column_of.setdefault(term, len(column_of)) for term in document)
            ends.append(len(columns))
        num_items, num_terms = len(ends) - 1, max(len(column_of), 1)
        counts = _counts(columns, ends, num_terms)
        document_count = np.bincount(counts.indices, minlength=num_terms)
        inverse_frequency = 1.0 + np.log((1 + num_items) / (1 + document_count))
        inverse_frequency[document_count < 2] = 0.0
        return cls(column_of, inverse_frequency, tf_idf(counts, inverse_frequency))


@dataclasses.dataclass(frozen=True, eq=False)
class TextTransform:
    """What turns texts and attributes into vectors like those of a catalogue.

    Attributes:
        words: the words that count.
        word_weights: `[words]` their inverse frequencies.
        attributes: the attributes that count; None: the catalogue had none.
        attribute_weights: `[attributes]`.
        attribute_weight: how much attributes count beside words.
        directions: `[words + attributes, D]` float32, the SVD's right singular vectors.
    """

    words: tuple[str, ...]
    word_weights: Float[np.ndarray, " words"]
    attributes: tuple[str, ...] | None
    attribute_weights: Float[np.ndarray, " attributes"]
    attribute_weight: float
    directions: Float32[np.ndarray, "terms D"]

    @classmethod
    def of(
        cls,
        words: TermWeights,
        attributes: TermWeights | None,
        attribute_weight: float,
        directions: Float[np.ndarray, "terms D"],
    ) -> Self:
        """Returns the transform, without the terms that count nothing."""
        parts, weights, kept = [], [], []
        start = 0
        for block in (words, attributes):
            if block is None:
                parts.append(None)
                weights.append(np.zeros(0))
                continue
            useful = np.flatnonzero(block.inverse_frequency > 0)
            useful = useful[useful < len(block.column_of)]
            terms = list(block.column_of)
            parts.append(tuple(terms[column] for column in useful))
            weights.append(block.inverse_frequency[useful])
            kept.append(start + useful)
            start += len(block.inverse_frequency)
        rows = np.concatenate(kept)
        some = directions[rows].astype(np.float32)
        return cls(parts[0] or (), weights[0], parts[1], weights[1], attribute_weight, some)

    def __call__(
        self, texts: Sequence[str | None], attributes: Sequence[Sequence[str]]
    ) -> Float32[np.ndarray, "n D"]:
        """Returns vectors of length one; zeros where no term of an item is known.

        Args:
            texts: a text an item.
            attributes: attributes of each item; not looked at where the catalogue had none.
        """
        blocks = [_rows(split_words(texts), self.words, self.word_weights)]
        if self.attributes is not None:
            names = (map(str, entries) for entries in attributes)
            rows = _rows(names, self.attributes, self.attribute_weights)
            blocks.append(rows * self.attribute_weight)
        return unit_rows(scipy.sparse.csr_array(scipy.sparse.hstack(blocks)) @ self.directions)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns everything as arrays of numbers, for a file; `from_arrays` turns them back."""
        terms = {"words": self.words, "attributes": self.attributes, "scale": self.attribute_weight}
        return {
            "text_terms": np.frombuffer(json.dumps(terms).encode(), np.uint8),
            "text_word_weights": self.word_weights,
            "text_attribute_weights": self.attribute_weights,
            "text_directions": self.directions,
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]
    ) -> Self | None:
        """Returns what `arrays` gave, or None if it is not among them.

        Args:
            arrays: of a file.
            path: the file, for errors.

        Raises:
            ValueError: the arrays do not fit together.
        """
        if "text_terms" not in arrays:
            return None
        rest = dict(arrays)
        terms = files.take_json(rest, "text_terms", _TERMS, path)
        words, attributes = tuple(terms["words"]), terms["attributes"]
        num_words, num_attributes = len(words), len(attributes or ())
        return cls(
            words,
            files.take_array(rest, "text_word_weights", "float64", (num_words,), path),
            None if attributes is None else tuple(attributes),
            files.take_array(rest, "text_attribute_weights", "float64", (num_attributes,), path),
            float(terms["scale"]),
            files.take_array(
                rest, "text_directions", "float32", (num_words + num_attributes, None), path
            ),
        )


def tf_idf(
    counts: scipy.sparse.csr_array, inverse_frequency: Float[np.ndarray, " terms"]
) -> scipy.sparse.csr_array:
    """Returns rows of length one: 1 + log of each count, times the term's weight."""
    weights = counts.copy()
    weights.data = 1.0 + np.log(counts.data)
    weights = weights @ scipy.sparse.diags_array(inverse_frequency)
    length = np.sqrt((weights * weights).sum(axis=1))
    scale = np.divide(1.0, length, out=np.zeros(len(length)), where=length > 0)
    return scipy.sparse.csr_array(scipy.sparse.diags_array(scale) @ weights)


def unit_rows(vectors: Float[np.ndarray, "N D"]) -> Float32[np.ndarray, "N D"]:
    """Returns rows scaled to length one; rows that are all rounding become zeros."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    known = length > _TOLERANCE * length.max(initial=0.0)
    return np.divide(vectors, length, out=np.zeros(vectors.shape), where=known).astype(np.float32)


def _rows(
    documents: Iterable[Iterable[str]], terms: Sequence[str], weights: np.ndarray
) -> scipy.sparse.csr_array:
    column_of = {term: column for column, term in enumerate(terms)}
    columns: list[int] = []
    ends = [0]
    for document in documents:
        columns.extend(column_of[term] for term in document if term in column_of)
        ends.append(len(columns))
    return tf_idf(_counts(columns, ends, len(terms)), weights)


def _counts(columns: Sequence[int], ends: Sequence[int], num_terms: int) -> scipy.sparse.csr_array:
    counts = scipy.sparse.csr_array(
        (np.ones(len(columns)), np.array(columns, dtype=np.int64), np.array(ends)),
        shape=(len(ends) - 1, num_terms),
    )
    counts.sum_duplicates()
    return counts
