"""The benchmark of slices: what it tells of a model small enough to be compiled in seconds."""

import importlib.util

import pytest

from launch.bench import slice_memory

TRUNK = {
    "num_layers": 2,
    "width": 256,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 128,
    "mlp_width": 256,
    "qkv_bias": True,
}


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu, which `make setup` installs"
)
def test_a_row_tells_what_a_step_takes_of_each_chip():
    shape = slice_memory.Shape(TRUNK, old_tokens=1024, new_tokens=512, logits_at_once=64)
    case = slice_memory.Case("v5e:2x2", "all", 4, 128)
    (row,) = slice_memory.run(shape, [case])
    assert (row["chips"], row["topology"], row["fits"]) == (4, "v5e:2x2", True)
    # 256 · (3 · 256 + 4 · 128) parameters and more a layer, two tables of 1,536 rows: 1.6 million,
    # with both moments 12 bytes each, a quarter of it a chip; what is small lies on every chip.
    num_parameters = 2 * 256 * 1536 + 2 * (3 * 256 * 256 + 256 * 128 * (2 + 1 + 1 + 2))
    assert row["state_gb"] == pytest.approx(12 * num_parameters / 4 / 1e9, rel=0.05)
    assert row["step_gb"] > 0
