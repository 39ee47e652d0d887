"""Targets that are replaced by items whose text is near that of the items before them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minirec.recommend.content import content_rows, nearest
from minirec.training import TextNeighbours
from minirec.training.tasks.text_neighbours import newest_before

KEY = jax.random.key(0)
DRAWS = 20_000
# Neighbours of items 0 to 3: of 0 a few that are near, of 1 little, of 3 none.
NEAR = TextNeighbours(
    np.array([[10, 11, 12], [13, 0, 0], [11, 14, 15], [0, 0, 0]], np.int32),
    np.array([[1, 0.75, 0.5], [0.25, 0, 0], [1, 1, 1], [0, 0, 0]], np.float16),
)


def shares(before, share, near=NEAR):
    """Returns how often each item comes in the place of target 5."""
    target = jnp.full(DRAWS, 5, jnp.int32)
    drawn = near.replaced(KEY, target, jnp.tile(jnp.asarray(before), (DRAWS, 1)), share)
    assert drawn.dtype == target.dtype
    return dict(zip(*np.unique(drawn, return_counts=True), strict=True))


@pytest.mark.parametrize(
    ("before", "weights"),
    [
        # The newest counts whole, the one before half; 11 is near both.
        ([0, 2], {10: 1.0, 11: 1.25, 12: 0.5, 14: 0.5, 15: 0.5}),
        ([2, 0], {10: 0.5, 11: 1.375, 12: 0.25, 14: 1.0, 15: 1.0}),
        ([0, -1], {10: 1.0, 11: 0.75, 12: 0.5}),
        ([1, 3], {13: 0.25}),
    ],
)
def test_neighbours_come_by_their_cosines_and_less_where_little_is_known(before, weights):
    share, total = 0.4, sum(weights.values())
    found = shares(before, share)
    expected = {item: share * min(1, total / 3) * w / total for item, w in weights.items()}
    expected[5] = 1 - sum(expected.values())
    assert found.keys() == expected.keys()
    for item, chance in expected.items():
        error = (chance * (1 - chance) / DRAWS) ** 0.5
        assert abs(found[item] / DRAWS - chance) < 5 * error


def test_where_there_is_no_neighbour_every_target_stays():
    for before in ([3, -1], [-1, -1], [3, 3]):
        assert shares(before, 1.0) == {5: DRAWS}


def test_every_target_is_replaced_at_share_one_where_enough_is_known():
    assert 5 not in shares([2, 0], 1.0)


def test_the_history_is_of_the_targets_own_segment():
    item = np.array([[7, 8, 9, 4, 6, -1], [1, 2, 3, 4, 5, 6]], np.int32)
    segment = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 3]], np.int32)
    before = newest_before(item, segment)
    np.testing.assert_array_equal(before[..., 0], [[-1, 7, 8, -1, 4, -1], [-1, -1, 2, 3, 4, -1]])
    np.testing.assert_array_equal(before[..., 1], [[-1, -1, 7, -1, -1, -1], [-1, -1, -1, 2, 3, -1]])


def test_the_nearest_are_kept_of_what_a_search_finds():
    titles = ["a b c", "a b d", "a c", "b d", "c d a", "e", "e f"]
    like = nearest(content_rows([t.replace(" ", "x ") + "x" for t in titles], [[]] * 7))
    found = TextNeighbours.of(like.offsets, like.item, like.cosine, kept=2)
    for item in range(7):
        _, other, cosine = like.of(np.array([item]))
        order = np.argsort(-cosine.astype(np.float64), kind="stable")[:2]
        number = len(order)
        np.testing.assert_array_equal(found.item[item, :number], other[order])
        np.testing.assert_array_equal(found.cosine[item, :number], cosine[order])
        assert not found.cosine[item, number:].any()
