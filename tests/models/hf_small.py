"""Small decoders of both families and the tensors of folders, for the Hugging Face tests."""

import dataclasses
import zlib

import jax.numpy as jnp
import numpy as np
from flax import nnx

from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from minirec.models.hf.folder import TensorFolder
from minirec.models.hf.safetensors_file import SafetensorsReader, write_safetensors

QWEN2 = TrunkConfig(
    num_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_width=24,
    qkv_bias=True,
    rope_theta=1e6,
)
QWEN3 = dataclasses.replace(QWEN2, qkv_bias=False, qk_norm=True, head_dim=6, norm_eps=1e-5)
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"


def make(trunk, tied=True, vocab_size=11):
    config = SidDecoderConfig(trunk, vocab_size, tied)
    model = nnx.eval_shape(lambda: SidDecoder(config, rngs=nnx.Rngs(0)))
    state = nnx.state(model)
    for path, variable in nnx.to_flat_state(state):  # No two parameters are alike.
        random = np.random.default_rng(zlib.crc32(str(path).encode()))
        values = random.standard_normal(variable.shape)
        variable.set_value(jnp.asarray(values, variable.dtype))
    nnx.update(model, state)
    return model


def bits(model):
    """Every parameter's bytes, type, shape and axis names, by path."""
    return {
        path: (
            np.asarray(variable.get_value()).tobytes(),
            variable.dtype,
            variable.shape,
            variable.get_metadata()["out_sharding"],
        )
        for path, variable in nnx.to_flat_state(nnx.state(model))
    }


def contents(folder):
    """Every tensor's bytes, type and shape, by name."""
    with TensorFolder(folder) as tensors:
        return {
            name: (
                tensors.read(name, slice(None)).tobytes(),
                tensors.info(name).dtype,
                tensors.info(name).shape,
            )
            for name in tensors.names()
        }


def arrays_of(file):
    with SafetensorsReader(file) as reader:
        return {name: reader.read(name, slice(None)) for name in reader.tensors}


def rewrite(file, tensors):
    header = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    write_safetensors(file, header, tensors.values())
