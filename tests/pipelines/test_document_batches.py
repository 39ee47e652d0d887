"""Documents as windows: every token is predicted once a shift, and never across a border."""

import itertools

import numpy as np
import pytest

from pipelines.text.document_batches import document_windows
from pipelines.text.row_batches import RowsConfig, row_batches

DOCUMENTS = [np.arange(start, start + size) for start, size in ((100, 23), (200, 2), (300, 9))]


@pytest.mark.parametrize("shifts", [1, 3])
def test_every_token_but_a_documents_first_is_predicted_once_a_shift(shifts):
    rows = document_windows(DOCUMENTS, 8, shifts)
    pairs = {}
    for start, length in zip(rows.start, rows.length, strict=True):
        assert length.tolist()[0] == 1
        assert length[1] <= 8
        sequence = rows.tokens[start[0] : start[0] + 1 + length[1]]
        for before, after in itertools.pairwise(sequence):
            pairs[before, after] = pairs.get((before, after), 0) + 1
    expected = {(one, one + 1) for tokens in DOCUMENTS for one in tokens[:-1]}
    assert set(pairs) == expected
    assert set(pairs.values()) == {shifts}


def test_shifts_cut_elsewhere():
    lengths = [sorted(document_windows(DOCUMENTS[:1], 8, n).length[:, 1]) for n in (1, 2)]
    assert lengths == [[6, 8, 8], [2, 4, 6, 8, 8, 8, 8]]


def test_a_packed_batch_keeps_documents_apart():
    rows = document_windows(DOCUMENTS, 8)
    config = RowsConfig(2, 8, num_threads=0)
    batches = row_batches({"d": rows}, {"d": 1.0}, config, seed=0, pad=3)
    seen = set()
    for index in range(batches.batches_per_epoch):
        batch = batches.batch_at(index)
        real = batch["segment_ids"] > 0
        assert (batch["targets"][real] == batch["tokens"][real] + 1).all()
        assert (batch["loss_mask"] == real).all()
        begins = np.diff(batch["segment_ids"], axis=1, prepend=0) != 0
        assert (batch["positions"][begins & real] == 0).all()
        seen |= set(batch["targets"][real].tolist())
    assert len(seen) == sum(len(tokens) - 1 for tokens in DOCUMENTS)


def test_more_shifts_than_places_are_refused():
    with pytest.raises(ValueError, match=r"loader\.shifts=9: must lie in \[1, row_tokens=8\]"):
        document_windows(DOCUMENTS, 8, 9)
