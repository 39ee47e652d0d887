import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minirec.training import OptimizerConfig, make_optimizer, make_schedule
from minirec.training.optimizer import decay_mask
from tests.bounds import FUNCTION, gamma

# A rate is some products and sums, and a cosine; a first update a ratio with a root.
RTOL = 2 * gamma(6 + FUNCTION)


def rates(num_steps, **fields):
    schedule = make_schedule(OptimizerConfig(learning_rate=2.0, **fields), num_steps)
    return np.asarray(jax.vmap(schedule)(jnp.arange(num_steps + 1)))


def test_warmup_climbs_from_a_first_step_that_moves_to_the_peak():
    np.testing.assert_allclose(rates(10, warmup_steps=4)[:5], [0.5, 1.0, 1.5, 2.0, 2.0], rtol=RTOL)


@pytest.mark.parametrize(
    ("schedule", "middle"), [("cosine", 1.1), ("linear", 1.1), ("constant", 2.0)]
)
def test_schedule_decays_over_the_rest_of_the_stage_to_its_end_fraction(schedule, middle):
    rate = rates(12, warmup_steps=2, schedule=schedule, end_fraction=0.1)
    assert rate[2] == 2.0
    np.testing.assert_allclose(rate[7], middle, rtol=RTOL)
    np.testing.assert_allclose(rate[12], 2.0 if schedule == "constant" else 0.2, rtol=RTOL)
    assert rate[11] >= rate[12]


def test_cosine_is_a_cosine():
    rate = rates(8, schedule="cosine")
    np.testing.assert_allclose(rate[2], 1.0 + np.cos(np.pi / 4), rtol=RTOL)


def test_weight_decay_spares_norms_biases_and_embeddings_of_scanned_layers():
    stacked = {
        "blocks": {
            "attention": {"query": jnp.ones((3, 4, 2)), "query_bias": jnp.ones((3, 4))},
            "attention_norm": {"scale": jnp.ones((3, 4))},
        },
        "embedding": jnp.ones((9, 4)),
        "head": jnp.ones((9, 4)),
        "gain": jnp.ones(4),
    }
    mask = decay_mask(stacked, OptimizerConfig().no_decay)
    assert mask == {
        "blocks": {
            "attention": {"query": True, "query_bias": False},
            "attention_norm": {"scale": False},
        },
        "embedding": False,
        "head": True,
        "gain": False,
    }


def test_only_decayed_parameters_shrink_without_gradient():
    params = {"kernel": jnp.ones((2, 2)), "norm": jnp.ones((2, 2))}
    config = OptimizerConfig(learning_rate=0.5, weight_decay=0.1, schedule="constant")
    optimizer = make_optimizer(config, 1)
    updates, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
    )
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=RTOL)
    np.testing.assert_array_equal(updates["norm"], 0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "step"}, r"OptimizerConfig\.schedule='step': must be one of cosine"),
        ({"learning_rate": -1.0}, r"learning_rate=-1\.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"average_decay": -0.1}, r"average_decay=-0\.1"),
        ({"b2": 1.5}, r"b2=1\.5.*\[0\.0, 1\.0\]"),
        ({"clip_norm": 0.0}, r"clip_norm=0\.0: must be above 0, or None"),
    ],
)
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**fields)
