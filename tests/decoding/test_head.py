"""The fused head in a search: the same beams as with stored logits, and when it is taken."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kernels.beam_step import NORMALIZE, record_implementations
from kernels.trie import build_trie
from minirec.decoding import BeamSearcher, beam_search
from minirec.decoding.head import choose_head
from minirec.models import SidDecoder, SidDecoderConfig
from tests.bounds import assert_close
from tests.decoding.small import LEVELS, LOGITS, TO_SCORE, TRUNK, VOCAB, make_model

NEWLINE, END = 12, 13
FAST_COMPILATION = {"xla_backend_optimization_level": 0}


@functools.cache
def compiled(normalize, head):
    def search(graphdef, state, *arguments, **filters):
        model = nnx.merge(graphdef, state)
        options = {"num_beams": 40, "normalize": normalize, "head": head}
        return beam_search(model, *arguments, **options, **filters)

    jitted = jax.jit(search, static_argnums=0, compiler_options=FAST_COMPILATION)
    return lambda model, *arguments, **filters: jitted(*nnx.split(model), *arguments, **filters)


@pytest.fixture(scope="module")
def answers():
    """A catalogue as a language model's: SIDs, then newline and end; all codes below those."""
    sids = np.unique(np.random.default_rng(3).integers(1, 12, (30, 3)), axis=0)
    return np.concatenate([sids, np.tile([NEWLINE, END], (len(sids), 1))], axis=1)


@pytest.fixture(scope="module")
def answer_trie(answers):
    return build_trie(answers, codebook_sizes=[VOCAB] * 5)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_the_fused_head_finds_what_the_plain_one_finds(
    model, prompts, answer_trie, answers, normalize
):
    excluded = np.array([[1, 2, -1], [-1, -1, -1], [5, 6, 7]], np.int32)
    plain, fused = (
        compiled(normalize, head)(model, *prompts, answer_trie, excluded=excluded)
        for head in ("plain", "fused")
    )
    for field in ("sid", "leaf", "dead", "item"):
        np.testing.assert_array_equal(getattr(fused, field), getattr(plain, field))
    # Two levels more than TO_SCORE counts, which are a sum of two.
    assert_close(fused.score, plain.score, TO_SCORE + 2, scale=5 * LOGITS)
    # More beams than answers: what is left over is dead and no item.
    alive = len(answers) - (excluded >= 0).sum(1)
    assert ((~np.asarray(fused.dead)).sum(1) == alive).all()
    assert ((np.asarray(fused.item) >= 0).sum(1) == alive).all()
    assert (np.asarray(fused.sid)[~np.asarray(fused.dead)][:, 3:] == [NEWLINE, END]).all()


def test_among_the_children_newline_and_end_cost_no_probability(
    model, prompts, answer_trie, answers
):
    # Nothing excluded, but given: so the test above and this one share a program.
    nothing = np.full((len(prompts[1]), 3), -1, np.int32)
    with_ends = compiled("children", "fused")(model, *prompts, answer_trie, excluded=nothing)
    without = compiled("children", "fused")(model, *prompts, build_trie(answers[:, :3]))
    np.testing.assert_array_equal(with_ends.item, without.item)
    assert_close(with_ends.score, without.score, TO_SCORE + 2, scale=LEVELS * LOGITS)


def large_model():
    """A model whose vocabulary is large enough, all of whose weights are 0."""
    config = SidDecoderConfig(dataclasses.replace(TRUNK, num_layers=1), 9_000, tie_embeddings=True)
    abstract = nnx.eval_shape(lambda: SidDecoder(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state))


class WithoutRows(nnx.Module):
    """A model that gives logits only."""


@pytest.mark.parametrize(
    ("make", "head", "implementation", "expected"),
    [
        (make_model, None, None, "plain"),
        (make_model, "fused", None, "fused"),
        (large_model, None, None, "fused"),
        (large_model, None, "xla", "fused"),
        (large_model, None, "triton_gpu", "plain"),  # of which there is no fused one
        (large_model, "plain", None, "plain"),
        (WithoutRows, None, None, "plain"),
    ],
)
def test_the_fused_head_is_taken_where_it_pays_and_can_be(make, head, implementation, expected):
    assert choose_head(make(), head, implementation) == expected


def test_a_large_vocabulary_is_searched_without_stored_logits(prompts):
    model, trie = large_model(), build_trie([(5, 8_999), (6, 8_000)])
    graphdef, state = nnx.split(model)

    def search(state):
        return beam_search(nnx.merge(graphdef, state), *prompts, trie, num_beams=2)

    with record_implementations() as ran:
        jaxpr = str(jax.make_jaxpr(search)(state))
    assert ran == ["xla", "xla"]
    assert "f32[3,2,9000]" not in jaxpr
    assert "f32[6,9000]" not in jaxpr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "half"}, "head='half' must be None or one of plain, fused"),
        (
            {"head": "fused", "implementation": "triton_gpu"},
            "implementation='triton_gpu' must be None or one of .* where head='fused'",
        ),
    ],
)
def test_a_head_that_is_none_is_an_error_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        BeamSearcher(num_beams=2, **options)


def test_a_fused_head_needs_a_model_with_rows():
    with pytest.raises(ValueError, match=r"a WithoutRows has no head_rows\(\)"):
        choose_head(WithoutRows(), "fused", None)


def test_the_searcher_passes_the_head_on(model, prompts, trie):
    items = []
    for head, implementation in (("fused", "reference"), ("plain", "xla")):
        searcher = BeamSearcher(num_beams=3, head=head, implementation=implementation)
        with record_implementations() as ran:
            items.append(searcher(model, *prompts, trie).item)
        assert ran == [implementation] * 3
    np.testing.assert_array_equal(*items)


def test_the_trie_of_a_language_models_answers_is_small():
    random = np.random.default_rng(0)
    codes = random.integers(0, [48, 256, 256], (3_670, 3)) + 151_936 + np.array([0, 48, 304])
    answers = np.concatenate([codes, np.tile([198, 151_645], (len(codes), 1))], axis=1)
    trie = build_trie(answers, codebook_sizes=[152_496] * 5)
    # Five int32 words a leaf and its item; nothing of the vocabulary's size.
    assert sum(array.nbytes for array in jax.tree.leaves(trie)) < 60 * len(codes)
