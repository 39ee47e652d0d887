"""All items by the item table, with the filters of a search."""

import numpy as np
import pytest
from flax import nnx

from kernels.trie import build_trie
from minirec.decoding import ItemRanker
from minirec.models import ItemDecoder, ItemReader
from tests.bounds import assert_close, log_softmax_roundings
from tests.models.test_item_decoder import CONFIG, READ, SIDS, L, N, V, prompts

# Logits are as large as 60, by items whose rows are 40 times what they are at the start.
ERROR = READ + CONFIG.trunk.width + log_softmax_roundings(N), 60

TRIE = build_trie(SIDS, codebook_sizes=[V] * L)
HISTORIES = [[3, 1, 4], [5], [2, 6, 0, 7]]


@pytest.fixture(scope="module")
def model():
    model = ItemDecoder(CONFIG, rngs=nnx.Rngs(0))
    model.items[...] = model.items[...] * 40
    return ItemReader(model, SIDS)


@pytest.fixture(scope="module")
def ranker():
    return ItemRanker(num_items=N + 2)


@pytest.fixture(scope="module")
def expected(model):
    """`[3, N]` log-probabilities."""
    logits = np.asarray(model.item_logits(model.read(*prompts(HISTORIES))), np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_every_item_comes_once_with_its_log_probability(model, ranker, expected):
    result = ranker(model, *prompts(HISTORIES), TRIE)
    np.testing.assert_array_equal(np.argsort(-expected, kind="stable"), result.item[:, :N])
    assert_close(result.item_score[:, :N], -np.sort(-expected), *ERROR)
    assert (result.item[:, N:] == -1).all()
    assert (result.item_score[:, N:] == -np.inf).all()


def test_filters_remove_items_and_change_no_score(model, ranker, expected):
    excluded = np.array([[1, 2, -1], [-1, -1, -1], [5, 6, 7]], np.int32)
    allowed = np.arange(N) % 3 > 0
    result = ranker(model, *prompts(HISTORIES), TRIE, excluded=excluded, allowed=allowed)
    for user in range(3):
        left = np.setdiff1d(np.flatnonzero(allowed), excluded[user])
        order = left[np.argsort(-expected[user, left], kind="stable")]
        np.testing.assert_array_equal(result.item[user, : len(left)], order)
        assert (result.item[user, len(left) :] == -1).all()
        found = result.item_score[user, : len(left)]
        assert_close(found, expected[user, order], *ERROR)


def test_items_that_left_the_catalogue_are_not_ranked(model, ranker):
    keep = np.delete(np.arange(N), [4, 9]).astype(np.int32)
    smaller = build_trie(SIDS[keep], keep, codebook_sizes=[V] * L, capacities=TRIE.capacities)
    result = ranker(model, *prompts(HISTORIES), smaller)
    assert set(result.item[0]) == set(keep.tolist()) | {-1}


def test_no_items_are_an_error():
    with pytest.raises(ValueError, match="num_items=0"):
        ItemRanker(num_items=0)
