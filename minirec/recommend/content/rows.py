"""Items as rows of weighted words, or of attributes where they have no title."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse


def content_rows(
    titles: Sequence[str], attributes: Sequence[Sequence[str]], later: Sequence[str] = ()
) -> scipy.sparse.csr_array:
    """Returns `[N + M, terms]` float32, each item's row: what is known of it before its first sale.

    A row has length one, or is empty where nothing is known of an item that is known of another.

    Where any item has a title, TF-IDF of the words of titles and attributes' values that two items
    have at least: 1 + ln(count), times 1 + ln((1 + N) / (1 + df)), as scikit-learn's
    `TfidfVectorizer(min_df=2, sublinear_tf=True)` makes them. Where none has, ln(N / df) for each
    attribute, which is taken as a whole.

    Args:
        titles: one an item, "" where it has none.
        attributes: of each item, written `name=value`.
        later: titles of `M` more items, whose rows come behind. They change nothing in the terms
            and their weights, and have an empty row where none of the others has a title.
    """
    if any(titles):
        from sklearn.feature_extraction.text import TfidfVectorizer  # Takes a second to import.

        texts = [
            " ".join([title, *(entry.partition("=")[2] for entry in entries)])
            for title, entries in zip(titles, attributes, strict=True)
        ]
        vectorizer = TfidfVectorizer(min_df=2, sublinear_tf=True, dtype=np.float32)
        try:
            rows = scipy.sparse.csr_array(vectorizer.fit_transform(texts))
        except ValueError:  # It says so where no word is left, as where there is one item alone.
            return _nothing(len(titles) + len(later))
        if not later:
            return rows
        return scipy.sparse.csr_array(scipy.sparse.vstack([rows, vectorizer.transform(later)]))
    column_of: dict[str, int] = {}
    columns: list[int] = []
    ends = [0]
    for entries in attributes:
        # Not a set, whose order is another in every process.
        own = dict.fromkeys(entries)
        columns.extend(column_of.setdefault(entry, len(column_of)) for entry in own)
        ends.append(len(columns))
    number = np.bincount(columns, minlength=len(column_of))
    if not (number > 1).any():
        return _nothing(len(titles) + len(later))
    weight = np.log(len(titles) / number)
    ends.extend([len(columns)] * len(later))
    shape = (len(titles) + len(later), len(column_of))
    rows = scipy.sparse.csr_array((weight[columns], columns, ends), shape=shape)
    rows.sort_indices()
    rows.eliminate_zeros()  # What every item has tells none from another.
    row = np.repeat(np.arange(shape[0]), np.diff(rows.indptr))
    rows.data /= np.sqrt(np.bincount(row, rows.data**2, minlength=shape[0]))[row]
    return rows.astype(np.float32)


def _nothing(num_items: int) -> scipy.sparse.csr_array:
    return scipy.sparse.csr_array((num_items, 1), dtype=np.float32)
