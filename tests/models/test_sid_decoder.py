"""The SID decoder: prefill and decoding steps against full forward passes; its head."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from tests.bounds import assert_close, trunk_roundings
from tests.decoding.small import TRUNK

CONFIG = SidDecoderConfig(TRUNK, vocab_size=20)
B, S, M, STEPS = 3, 6, 2, 3
LENGTHS = np.array([6, 1, 4], np.int32)


def tokens(seed, *shape):
    return np.random.default_rng(seed).integers(0, 20, shape).astype(np.int32)


@pytest.fixture(scope="module")
def decoder():
    return SidDecoder(CONFIG, rngs=nnx.Rngs(0))


# What is computed is under test: compile fast, run slowly.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@fast_jit
def decode(decoder, prompt, lengths, added, parents):
    """Hidden states [B, 1 + STEPS, M, D]; beams are reordered by `parents` before each step."""
    hidden, prefix = decoder.prefill(prompt, lengths)
    suffix = decoder.init_suffix(prompt.shape[0], M, STEPS)
    states = [jnp.repeat(hidden[:, None], M, axis=1)]
    for step in range(STEPS):
        suffix = suffix.reorder(parents[:, step], used=step)
        hidden, suffix = decoder.decode_step(added[:, step], step, lengths, prefix, suffix)
        states.append(hidden)
    return jnp.stack(states, axis=1), prefix


@pytest.fixture(scope="module")
def sequences():
    prompt, added = tokens(0, B, S), tokens(1, B, STEPS, M)
    parents = np.random.default_rng(2).integers(0, M, (B, STEPS, M))
    assert (parents[:, 1:] != np.arange(M)).any()
    return prompt, added, parents


def full_forward(decoder, prompt, added, parents):
    """Hidden states [B, M, D] of each beam's prompt's last token and of its last token of all."""
    T = S + STEPS
    rows = np.zeros((B, M, T), np.int32)
    histories = [[[] for _ in range(M)] for _ in range(B)]
    for step in range(STEPS):
        for b in range(B):
            histories[b] = [
                [*histories[b][parents[b, step, m]], added[b, step, m]] for m in range(M)
            ]
    for b in range(B):
        for m in range(M):
            row = [*prompt[b, : LENGTHS[b]], *histories[b][m]]
            rows[b, m, : len(row)] = row
    positions = np.broadcast_to(np.arange(T), (B * M, T))
    ends = np.repeat(LENGTHS, M)
    segment_ids = (positions < ends[:, None] + STEPS).astype(np.int32)
    full = fast_jit(lambda d, *a: d(*a))(decoder, rows.reshape(B * M, T), positions, segment_ids)
    full = np.asarray(full, np.float32)
    at = [
        np.take_along_axis(full, last[:, None, None], axis=1)
        for last in (ends - 1, ends + STEPS - 1)
    ]
    return [states.reshape(B, M, -1) for states in at]


def test_prefill_and_decoding_give_the_hidden_states_of_a_full_forward_pass(decoder, sequences):
    prompt, added, parents = sequences
    states, _ = decode(decoder, prompt, LENGTHS, added, parents)
    first, newest = full_forward(decoder, prompt, added, parents)
    assert_close(states[:, 0], first, trunk_roundings(TRUNK, S + STEPS))
    # After the last step, each beam's newest hidden state is its whole sequence's.
    assert_close(states[:, -1], newest, trunk_roundings(TRUNK, S + STEPS))


def test_bfloat16_decoding_stays_within_its_roundings_of_a_full_forward_pass(decoder, sequences):
    prompt, added, parents = sequences
    trunk = dataclasses.replace(TRUNK, dtype="bfloat16")
    rounded = SidDecoder(SidDecoderConfig(trunk, 20), rngs=nnx.Rngs(0))  # `decoder`'s weights.
    states, _ = decode(rounded, prompt, LENGTHS, added, parents)
    states = np.asarray(states, np.float32)
    # A layer rounds some eight times to 8 bits (norms, projections, attention, sums), and the
    # embedding and the last norm once each. The full pass may round the same sums to the other
    # side; the float32 pass rounds nothing that counts.
    bound = (8 * TRUNK.num_layers + 2) * 2.0**-8 * np.abs(states).max()
    for reference in (rounded, decoder):
        first, newest = full_forward(reference, prompt, added, parents)
        assert np.abs(states[:, 0] - first).max() <= bound
        assert np.abs(states[:, -1] - newest).max() <= bound
    # The bound is narrow enough to tell one beam from the other.
    assert np.abs(newest[:, 0] - newest[:, 1]).max() > 4 * bound


def test_what_stands_behind_a_prompt_is_never_seen(decoder, sequences):
    prompt, added, parents = sequences
    states, prefix = decode(decoder, prompt, LENGTHS, added, parents)
    other = np.where(np.arange(S) < LENGTHS[:, None], prompt, tokens(9, B, S))
    assert (other != prompt).any()
    again, _ = decode(decoder, other, LENGTHS, added, parents)
    np.testing.assert_array_equal(states, again)
    assert prefix.key.shape == (TRUNK.num_layers, B, S, TRUNK.num_kv_heads, TRUNK.head_dim)


@fast_jit
def read_block(decoder, block, start, lengths, prefix):
    return decoder.prefill_block(block, start, lengths, prefix)


def in_blocks(decoder, prompt, size):
    """The hidden state after each prompt, and the prefix, read block by block."""
    prefix, hidden = decoder.init_prefix(B, S), None
    for start in range(0, S, size):
        states, prefix = read_block(
            decoder, prompt[:, start : start + size], np.int32(start), LENGTHS, prefix
        )
        ends_here = (LENGTHS - 1) // size == start // size
        hidden = states if hidden is None else jnp.where(ends_here[:, None], states, hidden)
    return hidden, prefix


@pytest.mark.parametrize("size", [2, 3])
def test_a_prompt_may_be_read_block_by_block(decoder, sequences, size):
    prompt = sequences[0]
    want, whole = fast_jit(lambda d, *a: d.prefill(*a))(decoder, prompt, LENGTHS)
    hidden, prefix = in_blocks(decoder, prompt, size)
    assert_close(hidden, want, trunk_roundings(TRUNK, S))
    for ours, theirs in ((prefix.key, whole.key), (prefix.value, whole.value)):
        for row, length in enumerate(LENGTHS):
            ours_np, theirs_np = (np.asarray(a[:, row, :length]) for a in (ours, theirs))
            assert_close(ours_np, theirs_np, trunk_roundings(TRUNK, S))


def test_a_blocks_keys_and_values_are_the_same_whatever_comes_after_it(decoder, sequences):
    prompt = sequences[0]
    other = np.concatenate([prompt[:, :3], tokens(9, B, 3)], axis=1)
    (_, one), (_, two) = in_blocks(decoder, prompt, 3), in_blocks(decoder, other, 3)
    np.testing.assert_array_equal(one.key[:, :, :3], two.key[:, :, :3])
    np.testing.assert_array_equal(one.value[:, :, :3], two.value[:, :, :3])
    assert (one.key[:, :, 3:] != two.key[:, :, 3:]).any()


def test_reorder_moves_the_used_entries_only(decoder):
    suffix = decoder.init_suffix(1, 3, 2)
    marked = jax.tree.map(lambda a: a + jnp.arange(3.0)[None, None, :, None, None, None], suffix)
    moved = marked.reorder(jnp.array([[2, 2, 0]]), used=1)
    assert moved.key[0, 0, :, 0, 0, 0].tolist() == [2, 2, 0]
    assert moved.value[0, 0, :, 1, 0, 0].tolist() == [0, 1, 2]


def test_a_step_past_the_capacity_is_an_error(decoder):
    hidden, prefix = nnx.eval_shape(lambda d: d.prefill(tokens(0, 1, 2), jnp.array([2])), decoder)
    assert hidden.shape == (1, 16)
    with pytest.raises(ValueError, match="step=2 lies outside the suffix capacity 2"):
        decoder.decode_step(
            tokens(0, 1, 3), 2, jnp.array([2]), prefix, decoder.init_suffix(1, 3, 2)
        )


def test_head_is_the_embedding_or_a_matrix_of_its_own(decoder):
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 16))
    assert_close(decoder.logits(hidden), hidden @ decoder.embedding[...].T, 2 * TRUNK.width)
    assert decoder.head is None
    untied = SidDecoder(dataclasses.replace(CONFIG, tie_embeddings=False), rngs=nnx.Rngs(0))
    assert untied.head.out_sharding == untied.embedding.out_sharding == ("vocab", "embed")
    assert_close(untied.logits(hidden), hidden @ untied.head[...].T, 2 * TRUNK.width)
    assert (untied.head[...] != untied.embedding[...]).any()


def test_logits_are_float32_in_bfloat16_too():
    trunk = dataclasses.replace(TRUNK, dtype="bfloat16")
    decoder = SidDecoder(SidDecoderConfig(trunk, 20), rngs=nnx.Rngs(0))
    states, prefix = nnx.eval_shape(
        decode.__wrapped__,
        decoder,
        tokens(0, B, S),
        LENGTHS,
        tokens(1, B, STEPS, M),
        np.zeros((B, STEPS, M), np.int32),
    )
    assert states.dtype == prefix.key.dtype == jnp.bfloat16
    assert decoder.logits(jnp.zeros((1, 16), jnp.bfloat16)).dtype == jnp.float32


def test_qwen_shaped_parameters():
    """Shapes of Qwen2.5-0.5B and Qwen3-0.6B by their published configs, nothing allocated."""
    qwen2 = TrunkConfig(24, 896, 14, 2, 64, 4864, 1e6, 1e-6, qkv_bias=True)
    qwen3 = TrunkConfig(28, 1024, 16, 8, 128, 3072, 1e6, 1e-6, qk_norm=True)
    for trunk, millions in [(qwen2, 494), (qwen3, 596)]:
        config = SidDecoderConfig(trunk, 151_936)
        shapes = nnx.eval_shape(lambda c=config: SidDecoder(c, rngs=nnx.Rngs(0)))
        count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(shapes)))
        assert round(count / 1e6) == millions


def test_a_vocabulary_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="vocab_size=0"):
        SidDecoderConfig(TRUNK, 0)
