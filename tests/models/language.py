"""A tiny decoder of a language model's shape, and what its tests do with it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx

from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from tests.bounds import trunk_roundings

VOCAB = 30
TRUNK = TrunkConfig(
    num_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_width=24,
    qkv_bias=True,
    qk_norm=True,
)

# From tokens to the logits of a row of half the vocabulary.
TO_LOGITS = trunk_roundings(TRUNK, VOCAB // 2) + TRUNK.width


def make_language_model(tied=False, seed=0, **trunk):
    config = SidDecoderConfig(dataclasses.replace(TRUNK, **trunk), VOCAB, tie_embeddings=tied)
    return SidDecoder(config, rngs=nnx.Rngs(seed))


@nnx.jit
def _logits(model, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model.logits(model(tokens, positions, jnp.ones_like(tokens)))


def logits(model, vocab=VOCAB):
    """The logits of two rows that hold every token."""
    return np.asarray(_logits(model, jnp.arange(vocab // 2 * 2, dtype=jnp.int32).reshape(2, -1)))


def shifted(model, kind):
    """Moves every parameter of a kind."""
    state = nnx.state(model, kind)
    for number, (_, variable) in enumerate(nnx.to_flat_state(state)):
        noise = np.random.default_rng(number).standard_normal(variable.shape, np.float32)
        variable[...] = (np.asarray(variable[...]) + 0.3 * noise).astype(variable.dtype)
    nnx.update(model, state)
