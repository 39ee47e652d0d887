import itertools

import numpy as np
import pytest

from minirec.sids.collisions import resolve_collisions
from minirec.sids.free_sids import FreeSids
from minirec.sids.rq_kmeans import rq_kmeans


def ascending(sizes):
    return lambda prefix: np.arange(sizes[len(prefix)])


def test_a_free_sid_is_given_as_it_is_wanted_and_once():
    free = FreeSids([np.arange(2), np.arange(3)], np.array([[0, 0], [0, 0], [1, 2]]))
    assert free.num_free == 4
    assert free.take([1, 1], ascending((2, 3))).tolist() == [1, 1]
    assert free.take([1, 1], ascending((2, 3))).tolist() == [1, 0]
    assert free.take([1, 1], ascending((2, 3))).tolist() == [0, 1], "below 1 nothing is left"


def test_all_sids_are_given_before_it_ends():
    sizes = (2, 3, 2)
    free = FreeSids([np.arange(size) for size in sizes], np.zeros((0, 3), int))
    given = [tuple(free.take([1, 1, 1], ascending(sizes)).tolist()) for _ in range(12)]
    assert sorted(given) == list(itertools.product(*map(range, sizes)))
    with pytest.raises(ValueError, match="all 12 SIDs are taken"):
        free.take([1, 1, 1], ascending(sizes))


def test_only_allowed_codes_are_given_whatever_is_taken():
    taken = np.array([[3, 7], [3, 1], [9, 9]])
    free = FreeSids([np.array([3, 5]), np.array([1, 4])], taken)
    given = {tuple(free.take([9, 9], lambda prefix: [[5, 3], [4, 1]][len(prefix)])) for _ in "abc"}
    assert given == {(5, 4), (5, 1), (3, 4)}
    assert free.num_free == 0


@pytest.fixture(scope="module")
def crowded():
    """61 vectors for 4 x 4 x 4 SIDs, many of them equal."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(25, 6)).astype(np.float32)
    vectors = np.concatenate([vectors, vectors[:18], vectors[:18]])
    return vectors, rq_kmeans(vectors, 3, 4, seed=0)


def test_spare_capacity_makes_sids_unique_and_moves_no_more_than_it_must(crowded):
    vectors, result = crowded
    priority = np.arange(len(vectors)) % 7
    arguments = {"codebook_sizes": (4, 4, 4), "quantiser": result, "vectors": vectors}
    codes, sizes = resolve_collisions(result.codes, "spare_capacity", priority, **arguments)
    assert sizes == (4, 4, 4)
    assert len(np.unique(codes, axis=0)) == len(vectors)
    stayed = (codes == result.codes).all(axis=1)
    assert stayed.sum() == len(np.unique(result.codes, axis=0))
    for sid in np.unique(result.codes, axis=0):
        group = np.flatnonzero((result.codes == sid).all(axis=1))
        best = group[np.argmax(priority[group])]  # the first of the highest priority
        assert stayed[best], group
    again, _ = resolve_collisions(result.codes, "spare_capacity", priority, **arguments)
    np.testing.assert_array_equal(again, codes)


def test_a_move_is_to_the_nearest_free_code_of_the_same_prefix():
    vectors = np.array([[0.0], [0.0], [4.0], [9.0]], np.float32)
    result = rq_kmeans(vectors, 1, 4, seed=0)
    codes, _ = resolve_collisions(
        result.codes, "spare_capacity", codebook_sizes=(4,), quantiser=result, vectors=vectors
    )
    # Three codes are taken by their own; the fourth, which stands for no vector, is what is left.
    assert sorted(codes[:, 0].tolist()) == [0, 1, 2, 3]
    assert codes[[0, 2, 3], 0].tolist() == result.codes[[0, 2, 3], 0].tolist()


def test_more_items_than_sids_are_refused(crowded):
    vectors, _ = crowded
    result = rq_kmeans(vectors, 2, 4, seed=0)
    with pytest.raises(ValueError, match=r"61 items, but only 16 SIDs over \(4, 4\)"):
        resolve_collisions(
            result.codes, "spare_capacity", codebook_sizes=(4, 4), quantiser=result, vectors=vectors
        )
    with pytest.raises(ValueError, match="given SIDs have none"):
        resolve_collisions(result.codes, "spare_capacity")
