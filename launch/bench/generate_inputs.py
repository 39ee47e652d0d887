"""What the benchmark of generation searches: a random language model, a catalogue, prompts."""

from __future__ import annotations

import dataclasses

import numpy as np
from flax import nnx
from jaxtyping import Int

from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig

WIDE = TrunkConfig(
    num_layers=2,
    width=320,
    num_heads=5,
    num_kv_heads=1,
    head_dim=64,
    mlp_width=1728,
    rope_theta=1_000_000.0,
    qkv_bias=True,
)
"""Four million parameters, 53 million with the tied embedding of Qwen2's vocabulary: the head is
most of a search."""

DEEP = TrunkConfig(
    num_layers=8,
    width=256,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    mlp_width=1408,
    rope_theta=1_000_000.0,
    qkv_bias=True,
)
"""Ten million parameters, 49 million with the embedding: a third of a search is the trunk's."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One search problem; by default Qwen2's vocabulary and a catalogue shaped as Industrial's.

    Attributes:
        text_vocab: tokens before the SID tokens.
        newline: token after a SID.
        end: token that ends an answer.
        num_sids: distinct SIDs.
        num_items: items; those past `num_sids` share a SID with another.
        codes: how many codes occur at each level.
        prompt_tokens: the shortest and the longest prompt.
        num_beams: beams a user.
        trunk: the model between embedding and head, which are tied.
        seed: of everything that is drawn.
    """

    text_vocab: int = 151_936
    newline: int = 198
    end: int = 151_645
    num_sids: int = 3_670
    num_items: int = 3_686
    codes: tuple[int, ...] = (48, 256, 256)
    prompt_tokens: tuple[int, int] = (180, 220)
    num_beams: int = 50
    trunk: TrunkConfig = WIDE
    seed: int = 0


def random_answers(setting: Setting) -> tuple[Int[np.ndarray, "N L"], int]:
    """Returns the tokens of every item's answer, SID, newline and end, and the vocabulary's size.

    The codes that occur are the last tokens, in order.
    """
    random = np.random.default_rng(setting.seed)
    sids = np.zeros((0, len(setting.codes)), np.int64)
    while len(sids) < setting.num_sids:
        drawn = [_skewed(random, size, setting.num_sids) for size in setting.codes]
        sids = np.unique(np.concatenate([sids, np.stack(drawn, axis=1)]), axis=0)
    sids = random.permutation(sids)[: setting.num_sids]
    shared = random.integers(0, setting.num_sids, setting.num_items - setting.num_sids)
    sids = np.concatenate([sids, sids[shared]])
    names = sids + np.cumsum((0, *setting.codes[:-1]))
    used, token = np.unique(names, return_inverse=True)
    ends = np.tile([setting.newline, setting.end], (len(sids), 1))
    answers = np.concatenate([setting.text_vocab + token.reshape(sids.shape), ends], axis=1)
    return answers.astype(np.int32), setting.text_vocab + len(used)


def _skewed(random: np.random.Generator, size: int, count: int) -> Int[np.ndarray, " n"]:
    """Returns codes below `size`, some of them far more frequent than others."""
    share = np.arange(1, size + 1) ** -0.7
    return random.permutation(size)[random.choice(size, count, p=share / share.sum())]


def random_prompts(
    setting: Setting, answers: Int[np.ndarray, "N L"], num_users: int
) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, " B"]]:
    """Returns right-padded prompts of text and SIDs, half of each, and their lengths."""
    random = np.random.default_rng(setting.seed + 1)
    shortest, longest = setting.prompt_tokens
    text = random.integers(0, setting.text_vocab, (num_users, longest))
    sids = answers[random.integers(0, len(answers), (num_users, longest)), :-2]
    sids = sids.reshape(num_users, -1)[:, :longest]
    tokens = np.where(np.arange(longest) < longest // 2, text, sids)
    lengths = random.integers(shortest, longest + 1, num_users)
    return tokens.astype(np.int32), lengths.astype(np.int32)


def random_model(setting: Setting, vocab_size: int) -> SidDecoder:
    """Returns the model, its weights drawn so that scores lie apart as after training."""
    config = SidDecoderConfig(setting.trunk, vocab_size, tie_embeddings=True)
    model = SidDecoder(config, rngs=nnx.Rngs(setting.seed))
    random = np.random.default_rng(setting.seed + 2)
    for name in ("query_bias", "key_bias", "value_bias"):
        bias = getattr(model.trunk.blocks.attention, name)
        bias[...] = random.normal(0, 0.1, bias.shape).astype(np.float32)
    # The logits' standard deviation is then about 2.5.
    model.embedding[...] = model.embedding[...] * (2.5 / setting.trunk.width**0.5 / 0.02)
    return model
