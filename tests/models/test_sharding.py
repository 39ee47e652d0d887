"""The rule table of a mesh and its sizes; tests/training/eight_devices.py sees it at work."""

import dataclasses

import optax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh

from minirec.models import SidDecoder, SidDecoderConfig
from minirec.models.sharding import AXES, make_mesh, sharding_of
from tests.decoding.small import TRUNK

MESH = AbstractMesh((2, 4), AXES)


def specs(state):
    return {
        ".".join(map(str, path)): tuple(sharding_of(variable, MESH).spec)
        for path, variable in nnx.to_flat_state(state)
    }


def make(**trunk):
    config = SidDecoderConfig(dataclasses.replace(TRUNK, **trunk), 20, tie_embeddings=False)
    return SidDecoder(config, rngs=nnx.Rngs(0))


def test_matrices_are_split_on_the_model_width_and_vectors_are_whole():
    model = make()
    found = specs(nnx.state(model))
    blocks = "trunk.blocks"
    assert found["embedding"] == found["head"] == (None, "fsdp")
    assert found[f"{blocks}.attention.query"] == (None, "fsdp")
    assert found[f"{blocks}.attention.output"] == (None, None, None, "fsdp")
    assert found[f"{blocks}.mlp.down"] == (None, None, "fsdp")
    assert found[f"{blocks}.mlp_norm.scale"] == found["trunk.norm.scale"] == ()
    of_optimizer = specs(nnx.state(nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)))
    for name, spec in found.items():
        for moment in ("mu", "nu"):
            assert of_optimizer[f"opt_state.0.{moment}.{name}"] == spec, name
    assert of_optimizer["step"] == ()


def test_an_axis_that_does_not_divide_leaves_the_next_in_the_table():
    found = specs(nnx.state(make(width=18, mlp_width=24, num_heads=4, num_kv_heads=2, head_dim=2)))
    assert found["embedding"] == ("fsdp",), "the vocabulary of 20"
    assert found["trunk.blocks.mlp.gate"] == (None, None, "fsdp")
    assert found["trunk.blocks.attention.query"] == (None, None, "fsdp")
    assert found["trunk.blocks.attention.key"] == (), "18 and 2 heads are not divided by 4"


def test_one_device_needs_no_mesh():
    assert make_mesh(1, 1) is None
    assert make_mesh(-1, 1) is None


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((2, 1), "data=2, fsdp=1: must give the number of devices, 1;"),
        ((-1, 3), "data=-1, fsdp=3: must give the number of devices, 1;"),
        ((0, 1), "data=0, fsdp=1: each must be at least 1"),
        ((-1, -1), "or one of them -1"),
    ],
)
def test_sizes_that_do_not_fit_the_devices_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(*sizes)
