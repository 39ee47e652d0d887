import numpy as np
import pytest

from minirec.sids import SidTable, resolve_collisions

CODES = np.array([[1, 1], [0, 2], [1, 1], [1, 1], [0, 3], [0, 2]])


def test_an_extra_level_numbers_a_group_by_priority_then_id():
    codes, sizes = resolve_collisions(CODES, "extra_level", np.array([5, 0, 9, 5, 1, 0]))
    assert codes[:, :2].tolist() == CODES.tolist()
    assert codes[:, 2].tolist() == [1, 0, 0, 2, 0, 1]
    assert sizes == (2, 4, 3)
    assert codes.dtype == np.int32


def test_without_priority_the_lower_id_comes_first():
    codes, sizes = resolve_collisions(CODES, codebook_sizes=(8, 16))
    assert codes[:, 2].tolist() == [0, 0, 1, 2, 0, 1]
    assert sizes == (8, 16, 3)


def test_keep_changes_nothing():
    codes, sizes = resolve_collisions(CODES, "keep", codebook_sizes=(2, 4))
    assert np.array_equal(codes, CODES)
    assert sizes == (2, 4)


def test_the_extra_level_is_there_even_if_nothing_collides():
    codes, sizes = resolve_collisions(np.array([[0], [1]]))
    assert codes.tolist() == [[0, 0], [1, 0]]
    assert sizes == (2, 1)


def test_extreme_priorities_are_ordered_rightly():
    priority = np.array([np.iinfo(np.int64).min, 0, np.iinfo(np.int64).max])
    codes, _ = resolve_collisions(np.zeros((3, 1), int), priority=priority)
    assert codes[:, 1].tolist() == [2, 1, 0]


def test_random_collisions_always_come_apart():
    random = np.random.default_rng(0)
    codes = random.integers(0, 3, (500, 3))
    priority = random.integers(0, 5, 500)
    resolved, sizes = resolve_collisions(codes, priority=priority)
    assert len(np.unique(resolved, axis=0)) == 500
    for sid in np.unique(codes, axis=0):
        group = np.flatnonzero((codes == sid).all(axis=1))
        expected = sorted(group, key=lambda item: (-priority[item], item))
        assert [group[np.argsort(resolved[group, 3])].tolist()] == [[int(i) for i in expected]]
    assert sizes[3] == resolved[:, 3].max() + 1


def test_a_group_too_large_for_a_level_is_an_error():
    codes = np.zeros((65_537, 1), np.int32)
    with pytest.raises(ValueError, match=r"65537 items share the SID \[0\] of item 0"):
        resolve_collisions(codes)
    assert resolve_collisions(codes[1:])[1] == (1, 65_536)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CODES, "drop"), "policy: 'drop'"),
        ((CODES, "extra_level", np.zeros(5)), r"priority: shape \[5\]; expected \[6\]"),
        ((CODES, "extra_level", np.array([0, 1, np.nan, 0, 0, 0])), "priority: item 2 has NaN"),
        ((np.zeros((2, 16), int),), "16 levels; one more would pass 16"),
        ((np.zeros((0, 2), int),), "filled integer array"),
        ((np.array([[0], [-2]]),), "item 1 has -2 at level 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        resolve_collisions(*arguments)


def test_codebooks_too_small_for_the_codes_are_refused():
    with pytest.raises(ValueError, match="3 at level 1, where codes go up to 3"):
        resolve_collisions(CODES, "keep", codebook_sizes=(2, 3))


def test_the_real_industrial_sids_come_apart(real_data):
    (path,) = (real_data / "amazon_industrial" / "index").glob("*.index.json")
    codes, sizes = resolve_collisions(SidTable.load(path).codes)
    assert len(np.unique(codes, axis=0)) == 3_686
    assert (codes[:, 3] > 0).sum() == 3_686 - 3_670
    assert sizes[3] == 3
