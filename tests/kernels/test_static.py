"""Where STATIC is not at hand, that is said, and nothing else asks for it."""

import numpy as np
import pytest

from kernels.bench import decode, static


def test_without_the_variable_the_error_names_it(monkeypatch):
    monkeypatch.delenv(static.STATIC_PATH, raising=False)
    assert not static.is_named()
    with pytest.raises(ValueError, match="STATIC_PATH is not set"):
        static.load("csr_utils")


def test_a_folder_that_is_no_checkout_is_an_error_that_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv(static.STATIC_PATH, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"STATIC_PATH=.*csr_utils\.py"):
        static.build_index(np.zeros((2, 3), np.int32), 4)


def test_rows_are_sorted_from_the_first_code_on():
    sids = np.array([[2, 0], [0, 3], [0, 1], [1, 9]])
    assert static.sorted_sids(sids).tolist() == [[0, 1], [0, 3], [1, 9], [2, 0]]


def test_replayed_logits_are_the_logits_and_wait_for_the_tokens():
    logits = decode.random_logits(4, 2, batch=1, num_beams=3)[1]
    assert np.array_equal(static.replayed(logits, np.array([[0, 3, 1]])), logits)
    assert not np.array_equal(static.replayed(logits, np.array([[0, -1, 1]])), logits)
