"""The item decoder: prompts, packed rows and search against one another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kernels.trie import build_trie
from minirec.decoding import beam_search
from minirec.models import ItemDecoder, ItemDecoderConfig, ItemReader
from tests.bounds import assert_close, log_softmax_roundings, trunk_roundings
from tests.decoding.small import TRUNK

V, L, N = 14, 3, 20
CONFIG = ItemDecoderConfig(TRUNK, vocab_size=V, num_items=N, num_levels=L, level_width=24)
LENGTHS = np.array([3, 0, 5], np.int32)  # items of each prompt

# What is computed is under test: compile fast, run slowly.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def distinct_sids():
    """`[N, L]`: four codes a level, tokens 2 to 13."""
    numbers = np.random.default_rng(0).permutation(4**L)[:N]
    codes = numbers[:, None] // 4 ** np.arange(L) % 4
    return (2 + 4 * np.arange(L) + codes).astype(np.int32)


SIDS = distinct_sids()

# To a state: an item's embeddings added up, a norm, the trunk over six positions at most. To a
# level's hidden state: a norm, and a gated layer of the state and of what was written.
READ = L + 1 + TRUNK.width + 10 + trunk_roundings(TRUNK, 6)
WRITTEN = 2 * TRUNK.width + CONFIG.level_width + 20


@pytest.fixture(scope="module")
def model():
    model = ItemDecoder(CONFIG, rngs=nnx.Rngs(0))
    # As after training: embeddings that tell items apart.
    for parameter in (model.embedding, model.items):
        parameter[...] = parameter[...] * 40
    return model


@pytest.fixture(scope="module")
def histories():
    rng = np.random.default_rng(1)
    return [rng.permutation(N)[: length + 1] for length in LENGTHS]  # a target comes behind


def prompts(histories, fill=-1):
    item = np.full((len(histories), 5), fill, np.int32)
    for row, items in zip(item, histories, strict=True):
        row[: len(items)] = items
    return item, np.array([len(items) for items in histories], np.int32)


def packed(histories, padding=0):
    """All examples in one row, as training has them."""
    item = np.concatenate([*histories, np.full(padding, -1)])
    segment = np.repeat(np.arange(1, len(histories) + 1), [len(items) for items in histories])
    segment = np.pad(segment, (0, padding))
    return item[None].astype(np.int32), segment[None].astype(np.int32)


@fast_jit
def forward(model, item, segment):
    return model(item, segment, SIDS)


@fast_jit
def read(model, item, lengths, sids=SIDS):
    return model.read(item, lengths, sids)


def test_a_prompt_has_the_state_of_its_place_in_a_packed_row(model, histories):
    states = read(model, *prompts([items[:-1] for items in histories]))
    rows = forward(model, *packed(histories))
    ends = np.cumsum([len(items) for items in histories]) - 1
    assert_close(states, rows[0, ends], READ)


def test_padding_changes_nothing(model, histories):
    row = packed(histories)
    padded = forward(model, *packed(histories, padding=2))
    assert_close(padded[:, :-2], forward(model, *row), READ)


def test_what_stands_behind_a_prompt_is_never_seen(model, histories):
    shown = [items[:-1] for items in histories]
    np.testing.assert_array_equal(
        read(model, *prompts(shown)), read(model, *prompts(shown, fill=7))
    )


def test_an_item_without_a_row_is_known_by_its_sid_alone(model, histories):
    item, lengths = prompts([histories[2][:-1]])
    later = item.copy()
    later[0, 0] = N  # One that came later, with the SID of the first.
    sids = np.concatenate([SIDS, SIDS[item[:, 0]]])
    without = nnx.clone(model)
    without.items[...] = without.items[...].at[item[0, 0]].set(0.0)
    state = read(model, later, lengths, sids)
    assert_close(state, read(without, item, lengths), READ)
    assert np.abs(state - read(model, item, lengths)).max() > 1e-2


def log_probabilities(model, state):
    """`[N]`: every item's, by the levels' logits over the codes behind each prefix."""

    @fast_jit
    def level_logits(model, state):
        states, written, logits = jnp.broadcast_to(state, (N, state.size)), None, []
        for level in range(L):
            logits.append(model.logits(model.written(states, written, level)))
            added = model.embed(jnp.asarray(SIDS[:, level]))
            written = added if written is None else written + added
        return logits

    total = np.zeros(N)
    for level, logits in enumerate(np.asarray(level_logits(model, state), np.float64)):
        for item in range(N):
            siblings = (SIDS[:, :level] == SIDS[item, :level]).all(axis=1)
            behind = logits[item, np.unique(SIDS[siblings, level])]
            total[item] += logits[item, SIDS[item, level]] - np.log(np.exp(behind).sum())
    return total


def test_search_finds_every_item_with_its_probability(model, histories):
    item, lengths = prompts([items[:-1] for items in histories])
    trie = build_trie(SIDS, codebook_sizes=[V] * L)
    search = fast_jit(functools.partial(beam_search, num_beams=N, normalize="children"))
    result = search(ItemReader(model, SIDS), item, lengths, trie)
    states = read(model, item, lengths)
    for user in range(len(histories)):
        expected = log_probabilities(model, states[user])
        # Logits are off by a share of their size, about 40; probabilities by as much.
        roundings = READ + L * (WRITTEN + TRUNK.width) + L * log_softmax_roundings(4)
        assert_close(np.exp(expected).sum(), 1.0, roundings, scale=40)
        order = np.asarray(result.item[user])
        assert sorted(order) == list(range(N))
        assert_close(result.item_score[user], expected[order], roundings, scale=L * 40)
    assert np.ptp(np.asarray(result.item_score[0])) > 1


def test_items_are_scored_by_their_rows(model, histories):
    states = read(model, *prompts([items[:-1] for items in histories]))
    logits = fast_jit(lambda m, s: m.item_logits(s))(model, states)
    assert_close(logits, states @ model.items[...].T, TRUNK.width + 2)


def test_a_step_past_the_last_level_is_an_error(model):
    suffix = model.init_suffix(1, 2, L)
    with pytest.raises(ValueError, match=r"step=2: a SID has 3 levels"):
        model.decode_step(jnp.zeros((1, 2), jnp.int32), 2, None, jnp.zeros((1, 16)), suffix)


def test_sizes_that_are_none_are_errors():
    with pytest.raises(ValueError, match=r"ItemDecoderConfig.num_items=0"):
        ItemDecoderConfig(TRUNK, V, num_items=0, num_levels=L)
