"""All items by the item table, with the filters of a search."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from kernels.trie import build_trie
from minirec.decoding import BeamSearcher, ItemRanker
from minirec.decoding.ranking import RankedUsers
from minirec.models import ItemDecoder, ItemReader
from minirec.recommend.ranked_lists import RankedLists
from minirec.recommend.rescored import rescored
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


def ranked_users(found):
    names = ("item", "item_score", "sid", "score", "dead", "table_score")
    return RankedUsers(np.arange(len(found.item)), **{name: getattr(found, name) for name in names})


def test_a_search_over_all_items_ranks_by_the_table_as_a_ranking_of_all_does(
    model, ranker, expected
):
    # One item more than the table has rows: it came after training.
    sids = np.concatenate([SIDS, [[2, 6, 10]]]).astype(np.int32)
    assert len(np.unique(sids, axis=0)) == N + 1
    trie = build_trie(sids, codebook_sizes=[V] * L)
    later = ItemReader(model.decoder, sids)
    excluded = np.array([[1, 2], [-1, -1], [5, -1]], np.int32)
    search = BeamSearcher(num_beams=N + 1, normalize="children")
    found = search(later, *prompts(HISTORIES), trie, excluded=excluded)
    full = ranker(model, *prompts(HISTORIES), TRIE, excluded=excluded)
    logits = expected - expected[:, :1]
    for user in range(3):
        item, score = found.item[user], found.table_score[user]
        known = (item >= 0) & (item < N)
        assert (score[~known] == -np.inf).all()
        relative = score[known] - score[item == 0]
        assert_close(relative, logits[user, item[known]], 2 * ERROR[0], ERROR[1])
    ranked = ranked_users(found)
    searched = RankedLists(found.item, np.exp(found.item_score.astype(np.float64)))
    lists = rescored(ranked, searched, N)
    for user in range(3):
        order = lists.item[user]
        left = full.item[user][full.item[user] >= 0]
        np.testing.assert_array_equal(order[(order >= 0) & (order < N)], left)
        assert np.isclose(lists.probability[user].sum(), 1.0)
        # The later item keeps what the search says of it, and stands where that puts it.
        place = int(np.flatnonzero(order == N)[0])
        at = int(np.flatnonzero(found.item[user] == N)[0])
        assert lists.probability[user, place] == searched.probability[user, at]
        assert (np.diff(lists.probability[user]) <= 0).all()


def test_items_too_improbable_to_have_a_share_are_in_the_tables_order():
    item = np.array([[10, 3, 1, 2, -1]], np.int32)
    logit = np.array([[-np.inf, 1.0, 3.0, -900.0, -np.inf]])
    zero = np.zeros((1, 5))
    ranked = RankedUsers(np.arange(1), item, zero, item[..., None], zero, item < 0, logit)
    all_to_the_later = RankedLists(item, np.array([[1.0, 0, 0, 0, 0]]))
    assert rescored(ranked, all_to_the_later, 10).item.tolist() == [[10, 1, 3, 2, -1]]
    nothing = RankedLists(item, zero)
    assert rescored(ranked, nothing, 10).item.tolist() == [[1, 3, 2, 10, -1]]
    damaged = dataclasses.replace(ranked, table_score=np.where(item == 3, np.nan, logit))
    with pytest.raises(ValueError, match="NaN for user 0"):
        rescored(damaged, nothing, 10)


def test_a_model_without_a_table_cannot_rank_by_it():
    item = np.zeros((1, 1), np.int32)
    zero = np.zeros((1, 1))
    ranked = RankedUsers(np.arange(1), item, zero, item[..., None], zero, item > 0)
    with pytest.raises(ValueError, match="no item table"):
        rescored(ranked, RankedLists(item, zero), 1)


def test_no_items_are_an_error():
    with pytest.raises(ValueError, match="num_items=0"):
        ItemRanker(num_items=0)
