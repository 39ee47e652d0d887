"""One dial for a model's size."""

import pytest

from minirec.models.depth import learning_rate_of_width, trunk_of_depth


def test_sizes_follow_from_the_depth():
    trunk = trunk_of_depth(12)
    assert (trunk.num_layers, trunk.width, trunk.num_heads, trunk.num_kv_heads) == (12, 768, 12, 12)
    assert (trunk.head_dim, trunk.mlp_width) == (64, 2048)
    small = trunk_of_depth(1)
    assert (small.width, small.num_heads, small.head_dim, small.mlp_width) == (64, 1, 64, 192)


def test_what_is_given_by_hand_stays_and_the_rest_follows():
    trunk = trunk_of_depth(2, width=96, num_kv_heads=1, mlp_width=0, dropout=0.3)
    assert (trunk.width, trunk.num_heads, trunk.num_kv_heads, trunk.head_dim) == (96, 2, 1, 48)
    assert (trunk.mlp_width, trunk.dropout) == (256, 0.3)


def test_the_learning_rate_falls_with_the_root_of_the_width():
    assert learning_rate_of_width(768) == 1.5e-3
    assert learning_rate_of_width(192) == pytest.approx(3e-3)


def test_a_depth_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="depth"):
        trunk_of_depth(0)
