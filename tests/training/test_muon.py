"""Muon's step: orthogonal, of AdamW's size, for matrices alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minirec.training import OptimizerConfig, Stage, TrainConfig, as_record, make_optimizer
from minirec.training.muon import is_matrix, orthogonal, scale_by_muon


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 6, 6)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    made = np.asarray(jax.jit(orthogonal)(x))
    for before, after in zip(x, made, strict=True):
        values = np.linalg.svd(after, compute_uv=False)
        assert 0.6 < values.min() <= values.max() < 1.3
        u, _, v = np.linalg.svd(before, full_matrices=False)
        # In the singular vectors' own axes a matrix of the same ones is diagonal.
        inner = u.T @ after @ v.T
        assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-3


def params():
    return {
        "trunk": {
            "blocks": {
                "attention": {
                    "query": jnp.ones((2, 8, 2, 4)),
                    "query_bias": jnp.ones((2, 2, 4)),
                    "output": jnp.ones((2, 2, 4, 8)),
                },
                "mlp": {"down": jnp.ones((2, 12, 8))},
                "mlp_norm": {"scale": jnp.ones((2, 8))},
            }
        },
        "embedding": jnp.ones((9, 8)),
    }


def test_a_trunks_matrices_are_muons_and_all_else_is_adamws():
    leaves, _ = jax.tree_util.tree_flatten_with_path(params())
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    found = {name for name, leaf in names.items() if is_matrix(name, leaf)}
    block = "trunk/blocks/"
    assert found == {f"{block}attention/query", f"{block}attention/output", f"{block}mlp/down"}


def test_a_step_has_the_root_mean_square_of_adamws_in_every_matrix():
    gradients = {
        f"blocks/{name}": jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
        for name, shape in {
            "query": (2, 8, 2, 4),
            "output": (2, 2, 4, 8),
            "down": (2, 32, 8),
        }.items()
    }
    muon = scale_by_muon()
    step, _ = jax.jit(muon.update)(gradients, muon.init(gradients))
    for name, value in step.items():
        assert value.shape == gradients[name].shape
        # 0.2 by definition, of singular values of about one.
        assert 0.14 < float(jnp.sqrt(jnp.mean(value[0] ** 2))) < 0.26, name


def test_both_learning_rates_are_kept_apart_and_each_decays_its_own():
    config = OptimizerConfig(
        learning_rate=1e-3,
        muon_learning_rate=1e-2,
        schedule="constant",
        weight_decay=0.5,
        clip_norm=None,
    )
    optimizer, values = make_optimizer(config, 10), params()
    gradients = jax.tree.map(
        lambda x: jnp.asarray(np.random.default_rng(2).normal(size=x.shape), jnp.float32), values
    )
    updates, state = jax.jit(optimizer.update)(gradients, optimizer.init(values), values)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    block = updates["trunk"]["blocks"]
    # The first step of AdamW is its learning rate; embeddings are not decayed.
    np.testing.assert_allclose(jnp.abs(updates["embedding"]), 1e-3, rtol=1e-3)
    decayed = block["mlp"]["down"] + 1e-2 * 0.5
    assert 1e-3 < float(jnp.sqrt(jnp.mean(decayed**2))) < 3e-3
    np.testing.assert_allclose(jnp.abs(block["mlp_norm"]["scale"]), 1e-3, rtol=1e-3)


def test_a_run_without_muon_has_the_record_that_it_always_had():
    def record(**fields):
        stage = Stage("s", lambda: [], 3, OptimizerConfig(**fields))
        return as_record(TrainConfig("w"), [stage])["stages"][0]["optimizer"]

    assert "muon_learning_rate" not in record()
    assert record(muon_learning_rate=0.1)["muon_learning_rate"] == 0.1


def test_an_impossible_rate_is_refused():
    with pytest.raises(ValueError, match="muon_learning_rate=-1"):
        OptimizerConfig(muon_learning_rate=-1.0)
