"""Low-rank adapters: what they compute, and that nothing else is touched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.models.layers import AddedParam
from minirec.models.lora import TARGETS, LoraConfig, adapters, add_adapters
from minirec.models.vocabulary import merged
from tests.bounds import assert_close
from tests.models.language import TO_LOGITS, TRUNK, logits, make_language_model, shifted


@pytest.mark.parametrize("tied", [False, True])
def test_adapters_start_as_the_base_model_and_merge_into_what_they_became(tied):
    model = make_language_model(tied)
    before = logits(model)
    add_adapters(model, LoraConfig(rank=3, alpha=6.0), seed=1)
    assert {path[-1] for path, _ in adapters(model)} == set(TARGETS)
    np.testing.assert_array_equal(logits(model), before)
    shifted(model, AddedParam)
    apart, plain = logits(model), merged(model)
    assert np.abs(apart - before).max() > 0.1
    # A product with an adapter is two, of the rank's length and of the width, and a sum.
    assert_close(logits(plain), apart, TO_LOGITS + TRUNK.num_layers * 4 * (TRUNK.width + 3 + 2))
    assert not nnx.to_flat_state(nnx.state(plain, AddedParam))
    assert merged(plain) is plain


def test_an_adapter_is_the_scaled_product_of_its_two_matrices():
    model = make_language_model()
    add_adapters(model, LoraConfig(rank=2, alpha=5.0, targets=("output",)), seed=0)
    ((path, adapter),) = adapters(model)
    assert path == ("trunk", "blocks", "attention", "output")
    assert (adapter.a.shape, adapter.b.shape) == ((2, 4, 6, 2), (2, 2, 16))
    adapter.b[...] = jax.random.normal(jax.random.key(3), adapter.b.shape)
    weight = model.trunk.blocks.attention.output[...]
    expected = weight + 2.5 * np.einsum("lhkr,lrd->lhkd", adapter.a[...], adapter.b[...])
    found = merged(model).trunk.blocks.attention.output[...]
    assert_close(found, expected, 2 + 2)


def test_adapters_of_a_bfloat16_model_are_float32_and_the_merged_model_is_bfloat16():
    model = make_language_model(dtype="bfloat16", param_dtype="bfloat16")
    add_adapters(model, LoraConfig(rank=2), seed=0)
    for checked, kind, dtype in (
        (model, AddedParam, jnp.float32),
        (merged(model), nnx.Param, jnp.bfloat16),
    ):
        for path, variable in nnx.to_flat_state(nnx.state(checked, kind)):
            assert variable.dtype == dtype, path


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"rank": 0}, "rank=0"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"targets": ("query", "head")}, "targets="),
        ({"targets": ()}, "targets="),
        ({"targets": ("up", "up")}, "targets="),
    ],
)
def test_settings_that_are_none_are_named(fields, name):
    with pytest.raises(ValueError, match=name):
        LoraConfig(**fields)


def test_adapters_are_not_added_twice():
    model = make_language_model()
    add_adapters(model, LoraConfig(rank=1), seed=0)
    with pytest.raises(ValueError, match="adapters already"):
        add_adapters(model, LoraConfig(rank=1), seed=0)
