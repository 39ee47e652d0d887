import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.prepare.kcore import k_core


def naive_k_core(pairs, k, of_items=None):
    """Drops one offending interaction's user or item at a time, in plain Python."""
    of_items = k if of_items is None else of_items
    kept = list(range(len(pairs)))
    while True:
        users = [pairs[row][0] for row in kept]
        items = [pairs[row][1] for row in kept]
        rest = [
            row
            for row in kept
            if users.count(pairs[row][0]) >= k and items.count(pairs[row][1]) >= of_items
        ]
        if rest == kept:
            return kept
        kept = rest


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_agrees_with_dropping_one_after_the_other(pairs, k):
    user, item = np.array(pairs).T
    expected = naive_k_core(pairs, *k)
    if not expected:
        with pytest.raises(ValueError, match="leaves nothing"):
            k_core(user, item, k)
        return
    assert np.flatnonzero(k_core(user, item, k)).tolist() == expected


def test_a_chain_of_drops_is_followed_to_its_end():
    # Item 3 has one interaction; without it user 2 is short, without user 2 item 2 is.
    user = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    item = np.array([0, 1, 0, 1, 2, 3, 2, 0])
    assert k_core(user, item, 2).tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("k", [0, 1])
def test_zero_and_one_are_off(k):
    assert k_core(np.array([0, 1]), np.array([0, 1]), k).all()


def test_refusal_says_the_counts():
    with pytest.raises(ValueError, match=r"k_core=3 .* 4 interactions of 2 users .* 3 items"):
        k_core(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 2]), 3)


def test_a_negative_k_is_refused():
    with pytest.raises(ValueError, match="k_core is -1"):
        k_core(np.array([0]), np.array([0]), -1)
