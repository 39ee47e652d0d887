"""Documents as an endless, globally shuffled stream of packed token batches.

A document's tokens (beginning, text, end) are cut into windows of a row's length; what is left of
it shares a row with others', each in a segment of its own, so that nothing is seen across the
border of two documents. No token is padding that need not be.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from pipelines.text.passages import Passage, read_passages
from pipelines.text.pieces import Pieces
from pipelines.text.row_batches import EncodedRows

type Document = tuple[Passage, ...]
"""The passages of one document, in its order."""


def read_documents(path: Path) -> list[Document]:
    """Returns the documents of a file of passages.

    Raises:
        ValueError: a line holds no passage.
        OSError: the file cannot be read.
    """
    by_url = itertools.groupby(read_passages(path), key=lambda passage: passage.source_url)
    return [tuple(passages) for _, passages in by_url]


def document_text(document: Document, joiner: str) -> str:
    """Returns a document's passages as one text, with `joiner` between them."""
    return joiner.join(passage.text for passage in document)


def document_tokens(texts: Sequence[str], pieces: Pieces) -> list[Int32[np.ndarray, " n"]]:
    """Returns the tokens of each document: its beginning, its text and its end."""
    return [
        np.concatenate([[pieces.bos_id], ids, [pieces.eos_id]]).astype(np.int32)
        for ids in pieces.encode(texts)
    ]


def document_windows(
    documents: Iterable[Int32[np.ndarray, " n"]], row_tokens: int, shifts: int = 1
) -> EncodedRows:
    """Returns documents as windows of up to `row_tokens` places, each a token and what follows.

    Args:
        documents: tokens of each, at least two.
        row_tokens: places of a row.
        shifts: how often each document is cut, each time the `1 / shifts` part of a row later, so
            that tokens come with different ones before them; an epoch reads all of them.

    Raises:
        ValueError: `shifts` is below 1 or above `row_tokens`.
    """
    if not 1 <= shifts <= row_tokens:
        raise ValueError(f"loader.shifts={shifts}: must lie in [1, row_tokens={row_tokens}]")
    documents = list(documents)
    starts, lengths = [], []
    at = 0
    for tokens in documents:
        last = len(tokens) - 1  # The last token is a target only.
        for shift in range(shifts):
            first = shift * row_tokens // shifts
            cuts = np.arange(first, last, row_tokens) if first else np.arange(0, last, row_tokens)
            cuts = np.concatenate([[0] if first else [], cuts, [last]]).astype(np.int64)
            starts.append(at + cuts[:-1])
            lengths.append(np.diff(cuts))
        at += len(tokens)
    start, length = np.concatenate(starts), np.concatenate(lengths)
    return EncodedRows(
        np.concatenate(documents),
        np.stack([start, start + 1], axis=1),
        np.stack([np.ones_like(length), length], axis=1).astype(np.int32),
    )
