"""Checkpoints of Qwen2 and Qwen3 compute what transformers computes: whole models, layer by layer.

The fixtures come from tests/oracles/transformers_fixtures.py, which says what they hold.
"""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minirec.models import CausalMask, TrunkConfig
from minirec.models.hf import load_checkpoint
from tests.bounds import assert_close, trunk_roundings

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "hf"
NAMES = ("qwen2_tied", "qwen2_untied", "qwen3_tied", "qwen3_untied")


# From tokens to logits, over the 700 places of the longest row.
_TRUNK = TrunkConfig(
    num_layers=3,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    mlp_width=40,
    qk_norm=True,
    qkv_bias=True,
)
ROUNDINGS = trunk_roundings(_TRUNK, 700) + _TRUNK.width


@pytest.fixture(scope="module", params=NAMES)
def model_and_arrays(request):
    with np.load(FIXTURES / f"{request.param}_forward.npz", allow_pickle=False) as arrays:
        return load_checkpoint(FIXTURES / request.param), dict(arrays)


# What is computed is under test: compile fast, run slowly.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@fast_jit
def run(model, tokens, positions, segment_ids):
    """Logits, and the residual stream with the final norm's output behind it."""
    embeddings = model.embed(tokens)
    stream = model.trunk.residual_stream(
        embeddings, positions, CausalMask(), segment_ids=segment_ids
    )
    hidden = model(tokens, positions, segment_ids)
    return model.logits(hidden), stream, hidden


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert_close(ours, theirs, ROUNDINGS)


def places_of(tokens):
    return np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)


def test_logits_are_spread_so_that_the_tolerance_means_something(model_and_arrays):
    _, arrays = model_and_arrays
    for rows in ("padded", "far", "long"):
        assert 1.5 < arrays[f"{rows}_logits"].std() < 6
        layers = arrays[f"{rows}_stream"]
        for before, after in itertools.pairwise(layers):
            assert np.abs(after - before).mean() > 0.1


def test_padded_and_far_rows_have_the_logits_and_hidden_states_of_transformers(model_and_arrays):
    """The rows whose positions jump to thousands stand below the padded ones, padded as well."""
    model, arrays = model_and_arrays
    lengths, far = arrays["padded_lengths"], arrays["far_positions"]
    assert far.max() > 8000
    behind = ((0, 0), (0, arrays["padded_tokens"].shape[1] - far.shape[1]))
    tokens = np.concatenate([arrays["padded_tokens"], np.pad(arrays["far_tokens"], behind)])
    positions = places_of(tokens).copy()
    positions[len(lengths) :] = np.pad(far, behind)
    lengths = np.append(lengths, [far.shape[1]] * len(far))
    valid = places_of(tokens) < lengths[:, None]
    logits, stream, hidden = run(model, tokens, positions, valid.astype(np.int32))
    ours, ours_stream = logits[valid], stream[:, valid]
    n = len(arrays["padded_logits"])
    close(ours_stream[:, :n], arrays["padded_stream"])
    close(ours[:n], arrays["padded_logits"])
    close(ours_stream[:, n:], arrays["far_stream"].reshape(ours_stream[:, n:].shape))
    close(ours[n:], arrays["far_logits"].reshape(ours[n:].shape))
    close(model.trunk.norm(stream[-1]), hidden)


def test_a_long_row_and_a_long_prompt_have_the_logits_and_hidden_states_of_transformers(
    model_and_arrays,
):
    model, arrays = model_and_arrays
    tokens, places = arrays["long_tokens"], arrays["long_places"]
    assert places.max() + 1 == tokens.shape[1] > 512
    logits, stream, _ = run(model, tokens, places_of(tokens), np.ones_like(tokens))
    close(stream[:, 0, places], arrays["long_stream"])
    close(logits[0, places], arrays["long_logits"])

    @fast_jit
    def last(model, tokens, lengths):
        return model.logits(model.prefill(tokens, lengths)[0])

    lengths = np.array([tokens.shape[1]], np.int32)
    close(last(model, tokens, lengths)[0], arrays["long_logits"][-1])


def test_prefill_and_decoding_steps_have_the_logits_keys_and_values_of_transformers(
    model_and_arrays,
):
    """The rows' last tokens are decoded one by one behind a prompt of what stands before them.

    A layer's keys and values are its input's projections, so they hold the hidden states of every
    layer to the oracle's; the logits hold the last.
    """
    model, arrays = model_and_arrays
    tokens, lengths, steps = arrays["padded_tokens"], arrays["padded_lengths"], 4
    start = np.cumsum(lengths) - lengths
    prompt_lengths = np.maximum(lengths - steps, 1)
    # A row of one token is a prompt of one; nothing that is decoded behind it is looked at.
    places = np.minimum(prompt_lengths[:, None] + np.arange(steps), tokens.shape[1] - 1)
    added = np.take_along_axis(tokens, places, axis=1)
    # What stands behind a prompt must not be seen.
    prompts = np.where(places_of(tokens) < prompt_lengths[:, None], tokens, 77)

    @fast_jit
    def decode(model, prompts, prompt_lengths, added):
        hidden, prefix = model.prefill(prompts, prompt_lengths)
        suffix = model.init_suffix(len(prompts), 1, steps)
        hidden = [hidden]
        for step in range(steps):
            newest, suffix = model.decode_step(
                added[:, step, None], step, prompt_lengths, prefix, suffix
            )
            hidden.append(newest[:, 0])
        return model.logits(jnp.stack(hidden, axis=1)), prefix, suffix

    logits, prefix, suffix = decode(model, prompts, prompt_lengths, added)
    for row, size in enumerate(prompt_lengths):
        of_row = slice(start[row], start[row] + lengths[row])
        decoded = lengths[row] - size
        close(logits[row, : decoded + 1], arrays["padded_logits"][of_row][size - 1 :])
        for ours, added_ours, theirs in (
            (prefix.key, suffix.key, arrays["padded_keys"][:, of_row]),
            (prefix.value, suffix.value, arrays["padded_values"][:, of_row]),
        ):
            close(ours[:, row, :size], theirs[:, :size])
            close(added_ours[:, row, 0, :decoded], theirs[:, size:])
