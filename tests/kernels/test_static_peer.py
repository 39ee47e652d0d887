"""STATIC beside this project: its own tests call our search, and both find the same SIDs.

Needs a checkout of youtube/static-constraint-decoding, named by STATIC_PATH.
"""

import functools
import importlib.util
import os
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.beam_step import Beams, beam_step
from kernels.beam_step.shapes import SHAPES, random_inputs, random_sids
from kernels.bench import decode, static
from kernels.trie import build_trie

pytestmark = pytest.mark.skipif(
    not static.is_named(),
    reason="needs STATIC: set STATIC_PATH to a checkout of youtube/static-constraint-decoding",
)


def catalogue_of(packed_csr, csr_indptr, start_mask, num_levels):
    """The SIDs of an index, by its edges: what a caller of STATIC's decode hands over."""
    packed, indptr = np.asarray(packed_csr), np.asarray(csr_indptr)
    sids = np.flatnonzero(np.asarray(start_mask))[:, None]
    state = sids[:, 0] + 1
    for _ in range(1, num_levels):
        counts = indptr[state + 1] - indptr[state]
        row = np.repeat(np.arange(len(state)), counts)
        first = indptr[state] - np.cumsum(counts) + counts
        place = np.arange(counts.sum()) + np.repeat(first, counts)
        sids = np.concatenate([sids[row], packed[place, :1]], axis=1)
        state = packed[place, 1]
    return sids


def search_as_static(
    model,
    key,
    batch_size,
    beam_size,
    tokens_per_beam,
    start_token,
    max_sample_len,
    vocab_size,
    max_branch_factors,
    packed_csr,
    csr_indptr,
    start_mask,
    dense_mask,
    dense_states,
    d_dense=2,
):
    """STATIC's decode by its own signature, done by this project's trie and beam step."""
    del tokens_per_beam, max_branch_factors, dense_mask, dense_states, d_dense
    trie = build_trie(catalogue_of(packed_csr, csr_indptr, start_mask, max_sample_len))
    beams = Beams.root(batch_size)
    token = jnp.full((batch_size, 1), start_token)
    sid = jnp.zeros((batch_size, 1, 0), jnp.int32)
    for level in range(max_sample_len):
        logits, key = model(token.reshape(-1, 1), key)
        logits = logits.reshape(*token.shape, vocab_size)
        step = beam_step(logits, beams, trie, level, num_beams=beam_size)
        beams, token = step.beams, step.token
        sid = jnp.take_along_axis(sid, step.parent[..., None], axis=1)
        sid = jnp.concatenate([sid, token[..., None]], axis=-1)
    return sid


@pytest.fixture
def their_tests(monkeypatch):
    """STATIC's test module of its JAX decode, with our search in the place of its own."""
    calls = []

    def recorded(*args, **kwargs):
        calls.append(kwargs["vocab_size"])
        return search_as_static(*args, **kwargs)

    adapter = types.ModuleType("static_decoding.decoding_jax")
    adapter.RandomModel = static.load("decoding_jax").RandomModel
    adapter.sparse_transition_jax = recorded
    package = types.ModuleType("static_decoding")
    for name, module in (
        ("static_decoding", package),
        ("static_decoding.csr_utils", static.load("csr_utils")),
        ("static_decoding.decoding_jax", adapter),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    file = pathlib.Path(os.environ[static.STATIC_PATH], "tests", "test_jax_decoding.py")
    spec = importlib.util.spec_from_file_location("their_tests", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.calls_of_our_search = calls
    return module


def test_their_decoding_tests_pass_with_our_search(their_tests):
    tests = [name for name in vars(their_tests) if name.startswith("test_")]
    assert tests
    np.random.seed(0)  # noqa: NPY002  (theirs draws from the global state)
    for name in tests:
        getattr(their_tests, name)()
    assert their_tests.calls_of_our_search == [100, 50]


def test_their_check_holds_with_more_beams_than_first_codes_too(their_tests):
    # Their own decode fails here: at the root it asks for more beams than there are tokens.
    their_tests.run_validity_check(20, 30, 4, 30, 2, jax.random.key(0))
    assert their_tests.calls_of_our_search == [20]


@pytest.mark.parametrize(("levels", "vocab"), [(2, 32), (4, 32), (5, 64)])
def test_both_decodes_find_the_same_sids(levels, vocab):
    random = np.random.default_rng(0)
    sids = np.unique(random.integers(0, vocab, (3_000, levels)), axis=0)
    index, trie = static.build_index(sids, vocab), build_trie(sids)
    logits = decode.random_logits(vocab, levels, batch=3, num_beams=20)
    theirs = static.decode(logits, index, num_beams=20, tokens_per_beam=vocab)
    ours = decode.decode_replayed(logits, trie, num_beams=20)
    assert np.array_equal(theirs, ours.sid)
    assert np.array_equal(sids[ours.item], ours.sid)


@pytest.mark.parametrize("name", ["industrial_root", "industrial", "amazon_narrow"])
def test_both_steps_choose_the_same_beams(name):
    shape = SHAPES[name]
    sids = random_sids(shape)
    trie, index = build_trie(sids), static.build_index(sids, shape.vocab)
    logits, beams = random_inputs(shape, trie)
    their_beams = static.beams_of(index, trie, beams, shape.level, sids)
    options = {"level": shape.level, "num_beams": shape.num_beams}
    theirs = static.step(logits, their_beams, index, **options)
    ours = jax.jit(functools.partial(beam_step, **options))(logits, beams, trie)
    for field in ("token", "parent"):
        assert np.array_equal(getattr(theirs, field), getattr(ours, field))
    np.testing.assert_allclose(theirs.score, ours.score, atol=1e-4)


def test_a_prefix_that_is_not_there_is_an_error():
    index = static.build_index(np.array([[1, 2, 3], [1, 3, 3]]), 4)
    with pytest.raises(ValueError, match=r"\[1 1\] is not in STATIC's index"):
        static.states_of(index, np.array([[1, 1]]))
