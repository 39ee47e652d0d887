"""A model small enough to search exhaustively."""

import dataclasses

import numpy as np
from flax import nnx

from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from tests.bounds import log_softmax_roundings, trunk_roundings

VOCAB = 14
LEVELS = 3
TRUNK = TrunkConfig(
    num_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_width=24,
    qk_norm=True,
    qkv_bias=True,
)
LENGTHS = np.array([5, 2, 7], np.int32)


# From tokens to the sum of the log-probabilities of a SID's tokens: the trunk over a prompt of 12
# and a SID's tokens, the head, a softmax and a sum a level.
TO_SCORE = trunk_roundings(TRUNK, 12 + LEVELS) + TRUNK.width
TO_SCORE += log_softmax_roundings(VOCAB) + LEVELS
# What a level's logits are by size at most, by a head that is 40 times what it is at the start.
LOGITS = 50.0


def make_model(seed=0, **trunk):
    config = SidDecoderConfig(dataclasses.replace(TRUNK, **trunk), VOCAB, tie_embeddings=False)
    model = SidDecoder(config, rngs=nnx.Rngs(seed))
    # A sharper head than at the start of training, so that scores lie apart.
    model.head[...] = model.head[...] * 40
    return model
