"""The exact index against a sort of all products."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from minirec.files import DamagedError
from minirec.recommend.index import ExactIndex, nearest_items


def sorted_items(users, vectors, k, allowed=None, excluded=None):
    """All products sorted, ties to the lower item."""
    score = users.astype(np.float64) @ vectors.T.astype(np.float64)
    if allowed is not None:
        score[:, ~allowed] = -np.inf
    for row, items in enumerate([] if excluded is None else excluded):
        score[row, items[items >= 0]] = -np.inf
    order = np.argsort(-score, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(score, order, axis=1)
    missing = ((0, 0), (0, k - order.shape[1]))
    order = np.pad(np.where(best > -np.inf, order, -1), missing, constant_values=-1)
    return order, np.pad(best, missing, constant_values=-np.inf)


# Vectors of small whole numbers: products are exact, and many of them tie.
@hypothesis.given(
    st.integers(0, 10**6), st.sampled_from([5, 300, 700]), st.sampled_from([1, 7, 40]),
    st.booleans(), st.booleans(),
)  # fmt: skip
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
def test_it_finds_what_a_sort_of_all_products_finds(seed, num_items, k, filters, one_block):
    rng = np.random.default_rng(seed)
    users = rng.integers(-3, 4, (3, 4)).astype(np.float32)
    vectors = rng.integers(-3, 4, (num_items, 4)).astype(np.float32)
    allowed = rng.random(num_items) < 0.5 if filters else np.ones(num_items, bool)
    excluded = rng.integers(-1, num_items, (3, 6)).astype(np.int32)
    if not filters:
        excluded[:] = -1
    item, score = nearest_items(
        users, vectors, allowed, excluded, k=k, block=1024 if one_block else 256
    )
    expected, value = sorted_items(users, vectors, k, allowed, excluded)
    assert np.asarray(item).tolist() == expected.tolist()
    assert np.asarray(score).tolist() == value.tolist()


def test_an_index_is_kept_and_found_damaged(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.integers(-9, 10, (200, 8)).astype(np.float32)
    index = ExactIndex(vectors, {"run": "shop@5"})
    index.save(tmp_path / "index")
    again = ExactIndex.load(tmp_path / "index")
    assert again.made_with == {"run": "shop@5"}
    users = rng.integers(-9, 10, (2, 8)).astype(np.float32)
    assert again.search(users, 9)[0].tolist() == sorted_items(users, vectors, 9)[0].tolist()
    with pytest.raises(ValueError, match="width 8"):
        again.search(users[:, :3], 9)
    with pytest.raises(ValueError, match="k"):
        again.search(users, 0)
    path = tmp_path / "index" / "vectors.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"vectors\.npy"):
        ExactIndex.load(tmp_path / "index")
