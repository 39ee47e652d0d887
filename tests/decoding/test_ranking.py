"""Users of a split through the search: every row once, in order, with its own history left out."""

import jax
import numpy as np
import pytest

from minirec.decoding import BeamSearcher
from minirec.decoding.ranking import rank_users
from tests.bounds import assert_close
from tests.decoding.small import LEVELS, LOGITS, TO_SCORE, VOCAB

NUM_ITEMS, NUM_ROWS, WIDTH = 30, 7, 7


@pytest.fixture(scope="module")
def searcher():
    return BeamSearcher(num_beams=NUM_ITEMS)  # Exhaustive: a filter then changes nothing else.


@pytest.fixture(scope="module")
def batches(model, trie, searcher):
    """Rows 0 to 6 in three batches out of order, padded with rows that are not valid."""
    random = np.random.default_rng(3)
    tokens = random.integers(1, VOCAB, (NUM_ROWS, WIDTH)).astype(np.int32)
    lengths = random.integers(1, WIDTH + 1, NUM_ROWS).astype(np.int32)
    # By three as well, so that one program serves; the last row fills its batch up.
    by_three = np.minimum(np.arange(9), NUM_ROWS - 1).reshape(3, 3)
    parts = [searcher(model, tokens[rows], lengths[rows], trie) for rows in by_three]
    found = jax.tree.map(lambda *values: np.concatenate(values)[:NUM_ROWS], *parts)
    # Each user has taken what would be recommended first and third.
    history = np.full((NUM_ROWS, 4), -1, np.int32)
    history[:, 1:3] = found.item[:, [2, 0]]
    pieces = []
    for rows in ([6, 2, 4], [5, 0, 3], [1, 0, 0]):
        valid = np.array([True, True, True]) if len(set(rows)) == 3 else np.arange(3) < 1
        pieces.append(
            {
                "tokens": tokens[rows],
                "lengths": lengths[rows],
                "history": history[rows],
                "row": np.array(rows),
                "valid": valid,
            }
        )
    return pieces, history, found


def test_rows_come_back_in_order_and_what_is_not_valid_is_dropped(model, trie, searcher, batches):
    pieces, _, found = batches
    counts = []
    ranked = rank_users(model, pieces, searcher, trie, exclude_seen=False, on_batch=counts.append)
    assert counts == [3, 3, 1]
    assert ranked.row.tolist() == list(range(NUM_ROWS))
    for name in ("item", "sid", "dead"):
        np.testing.assert_array_equal(getattr(ranked, name), getattr(found, name))
    for name in ("item_score", "score"):
        assert_close(getattr(ranked, name), getattr(found, name), TO_SCORE, scale=LEVELS * LOGITS)


def test_exclude_seen_leaves_out_each_users_own_history_only(model, trie, searcher, batches):
    pieces, history, found = batches
    ranked = rank_users(model, pieces, searcher, trie, exclude_seen=True)
    assert ranked.row.tolist() == list(range(NUM_ROWS))
    for row in range(NUM_ROWS):
        seen = set(history[row].tolist()) - {-1}
        assert len(seen) == 2
        left = [item for item in found.item[row].tolist() if item not in seen]
        assert ranked.item[row].tolist() == [*left, -1, -1]


def test_what_is_not_allowed_is_recommended_to_nobody(model, trie, searcher, batches):
    pieces, _, found = batches
    allowed = np.ones(NUM_ITEMS, bool)
    allowed[found.item[:, 0]] = False
    ranked = rank_users(model, pieces, searcher, trie, exclude_seen=False, allowed=allowed)
    assert allowed[ranked.item[ranked.item >= 0]].all()
    assert not np.isin(found.item[:, 0], ranked.item).any()


def test_no_batches_are_an_error(model, trie, searcher):
    with pytest.raises(ValueError, match="no user to rank"):
        rank_users(model, [], searcher, trie, exclude_seen=False)
