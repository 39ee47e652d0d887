"""The batches of the training benchmark hold the examples that they say."""

import numpy as np

from launch.sft_measure import make_batch


def test_packed_and_padded_rows_hold_the_same_examples():
    arrays = {
        "tokens": np.arange(100, 112, dtype=np.int32),
        "offsets": np.array([0, 5, 9, 12]),
        "prompts": np.array([3, 2, 1]),
    }
    padded = make_batch(arrays, [np.array([0]), np.array([1])], 6)
    np.testing.assert_array_equal(
        padded["tokens"], [[100, 101, 102, 103, 0, 0], [105, 106, 107, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        padded["targets"], [[101, 102, 103, 104, 0, 0], [106, 107, 108, 0, 0, 0]]
    )
    # The last token of a prompt is the first that asks for the answer.
    np.testing.assert_array_equal(padded["loss_mask"], [[0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]])

    packed = make_batch(arrays, [np.array([1, 0])], 8)
    np.testing.assert_array_equal(packed["tokens"], [[105, 106, 107, 100, 101, 102, 103, 0]])
    np.testing.assert_array_equal(packed["targets"], [[106, 107, 108, 101, 102, 103, 104, 0]])
    np.testing.assert_array_equal(packed["segment_ids"], [[1, 1, 1, 2, 2, 2, 2, 0]])
    np.testing.assert_array_equal(packed["positions"], [[0, 1, 2, 0, 1, 2, 3, 0]])
    np.testing.assert_array_equal(packed["loss_mask"], [[0, 1, 1, 0, 0, 1, 1, 0]])
