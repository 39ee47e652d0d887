"""A small model, catalogue and prompts that the searches are tested on."""

import numpy as np
import pytest

from kernels.trie import build_trie
from tests.decoding.small import LENGTHS, LEVELS, VOCAB, make_model


@pytest.fixture(scope="session")
def model():
    return make_model()


@pytest.fixture(scope="session")
def catalogue():
    """SIDs of 30 items, some of them shared by two or three items, rows in random order."""
    rng = np.random.default_rng(0)
    distinct = np.unique(rng.integers(2, [6, 10, 14], (24, LEVELS)), axis=0)
    sids = np.concatenate([distinct, distinct[rng.integers(0, len(distinct), 30 - len(distinct))]])
    assert len(np.unique(sids, axis=0)) < len(sids)
    return rng.permutation(sids)


@pytest.fixture(scope="session")
def trie(catalogue):
    return build_trie(catalogue)


@pytest.fixture(scope="session")
def prompts():
    tokens = np.random.default_rng(1).integers(1, VOCAB, (len(LENGTHS), 7)).astype(np.int32)
    return tokens, LENGTHS
