"""Beams over answers of a language model are those of transformers' `generate`.

The fixtures come from tests/oracles/transformers_fixtures.py, which says what they hold.
"""

import pathlib

import numpy as np
import pytest

from kernels.trie import build_trie
from minirec.decoding import BeamSearcher
from minirec.models.hf import load_checkpoint
from tests.bounds import assert_close, log_softmax_roundings, trunk_roundings

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "hf"
NUM_BEAMS = 50


@pytest.fixture(scope="module", params=["qwen2_tied", "qwen3_untied"])
def found(request):
    """The oracle's arrays, searches over all answers and over a few, and roundings to a score."""
    model = load_checkpoint(FIXTURES / request.param)
    with np.load(FIXTURES / f"{request.param}_generate.npz", allow_pickle=False) as arrays:
        arrays = dict(arrays)
    answers, few = arrays["answers"], arrays["few_beams"].shape[1]
    sizes = [model.config.vocab_size] * answers.shape[1]
    trie = build_trie(answers, codebook_sizes=sizes)
    few_trie = build_trie(answers[:few], codebook_sizes=sizes, capacities=trie.capacities)
    searcher = BeamSearcher(num_beams=NUM_BEAMS)
    results = [
        searcher(model, arrays["prompts"], arrays["lengths"], catalogue)
        for catalogue in (trie, few_trie)
    ]
    # Prompts of 40 tokens and answers of 5 through the trunk, the head and a softmax; sums of 5.
    trunk = model.config.trunk
    roundings = trunk_roundings(trunk, 45) + trunk.width
    roundings += log_softmax_roundings(model.config.vocab_size) + 5
    return arrays, *results, roundings


def test_the_oracle_searched_20_prompts_of_different_lengths(found):
    arrays, *_ = found
    assert len(np.unique(arrays["lengths"])) > 10
    assert arrays["beams"].shape == (20, NUM_BEAMS, 5)
    assert len(arrays["answers"]) > 2 * NUM_BEAMS


def test_the_same_50_sequences_in_the_same_order_with_the_same_scores(found):
    arrays, result, _, roundings = found
    np.testing.assert_array_equal(result.sid, arrays["beams"])
    assert_close(result.score, arrays["scores"], roundings)
    assert not result.dead.any()
    np.testing.assert_array_equal(arrays["answers"][result.item], arrays["beams"])


def test_beams_beyond_the_valid_answers_end_dead_and_name_no_item(found):
    arrays, _, result, roundings = found
    few = arrays["few_beams"].shape[1]
    assert few < NUM_BEAMS
    np.testing.assert_array_equal(result.sid[:, :few], arrays["few_beams"])
    assert_close(result.score[:, :few], arrays["few_scores"], roundings)
    assert not result.dead[:, :few].any()
    assert result.dead[:, few:].all()
    assert (result.score[:, few:] == -np.inf).all()
    assert (result.item[:, few:] == -1).all()
    assert (result.item_score[:, few:] == -np.inf).all()
    for items in result.item:
        np.testing.assert_array_equal(np.sort(items[:few]), np.arange(few))
