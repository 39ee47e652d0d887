"""Log-probabilities of documents and of their words, beside plain sums over the vocabulary."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minirec.evaluation.text_scores import TextMeasure, Windows, measures, score
from minirec.evaluation.words import beginnings, word_log_probs, words_of
from tests.bounds import assert_close, log_softmax_roundings
from tests.models.language import TO_LOGITS, VOCAB, make_language_model

RANDOM = np.random.default_rng(0)
DOCUMENTS = [RANDOM.integers(4, VOCAB, size).astype(np.int32) for size in (31, 2, 12)]
SURFACES = [
    *("", "", "", "", " ", "\n", " a", "b", " ab", "c"),
    *(f"{' ' if number % 2 else ''}w{number}" for number in range(10, VOCAB)),
]


@pytest.fixture(scope="module")
def model():
    return make_language_model()


@jax.jit
def log_softmax(model, tokens):
    positions = jnp.arange(tokens.shape[1])[None]
    hidden = model(tokens, positions, jnp.ones_like(tokens))
    return jax.nn.log_softmax(model.logits(hidden)[0])


def plain(model, document, size, overlap, begins):
    """Each token's log-probability and its place's mass, every token read in a call of its own."""
    found, masses = [], []
    for at in range(1, len(document)):
        done = (at - 1 - size) // (size - overlap) + 1 if at > size else 0
        first = 0 if not done else size + (done - 1) * (size - overlap) - overlap
        rows = np.zeros((1, size), np.int32)
        rows[0, : at - first] = document[first:at]
        line = np.asarray(log_softmax(model, rows))[at - first - 1]
        found.append(line[document[at]])
        masses.append(np.logaddexp.reduce(line[begins]))
    return found, masses


@pytest.mark.parametrize("overlap", [0, 3])
def test_documents_have_the_scores_of_reading_them_token_by_token(model, overlap):
    windows = Windows.of_documents(DOCUMENTS, 8, overlap)
    begins = beginnings(SURFACES, (2,))
    ours = score(model, windows, begins, 5)
    theirs = [plain(model, document, 8, overlap, begins) for document in DOCUMENTS]
    roundings = TO_LOGITS + log_softmax_roundings(VOCAB)
    for number, values in enumerate(ours):
        assert_close(values, np.concatenate([one[number] for one in theirs]), roundings)


def test_measures_are_of_the_whole_text_and_its_bytes_and_words(model):
    windows = Windows.of_documents(DOCUMENTS, 8, 2)
    measure = TextMeasure(windows, beginnings(SURFACES, (2,)), 100, 20, 4)
    found = measure(model)
    total = -float(score(model, windows, measure.begins, 4)[0].astype(np.float64).sum())
    assert found["bits_per_byte"] == pytest.approx(total / math.log(2) / 100)
    assert found["word_perplexity"] == pytest.approx(math.exp(total / 20))
    assert found["compression"] == pytest.approx(8 / found["bits_per_byte"])
    # Two float32 numbers, their ratio and its exponential.
    assert found["perplexity"] == pytest.approx(math.exp(total / 42), rel=1e-5)


def test_a_uniform_model_has_its_vocabulary_as_perplexity():
    found = measures(np.full(10, -math.log(32), np.float32), 5, 2)
    assert found["perplexity"] == pytest.approx(32, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(10)


def test_words_are_what_stands_between_blanks_and_line_ends():
    assert words_of(" \n = Robert =\n\n a  b") == ["\n", "=", "Robert", "=", "\n", "\n", "a", "b"]


def test_the_words_probabilities_multiply_to_the_texts_and_each_is_its_own():
    # " ab" "c" " a" " " "\n" " a", and the end.
    tokens = np.array([8, 9, 6, 4, 5, 6, 2])
    log_probs = np.log(np.array([0.5, 0.4, 0.3, 0.2, 0.6, 0.7, 0.9]))
    masses = np.log(np.array([0.8, 0.6, 0.45, 0.5, 0.25, 0.75, 0.95]))
    found = np.exp(word_log_probs(tokens, log_probs, masses, SURFACES))
    np.testing.assert_allclose(
        found,
        [
            0.5 * 0.4 * 0.45,  # and then a blank
            0.3 / 0.45 * 0.5,
            0.2 / 0.5 * 0.6,  # a blank that must come, and the line's end, behind which all begins
            0.7 * 0.95,  # and then the end of the text
        ],
    )
    text = "".join(SURFACES[token] for token in tokens)
    assert len(found) == len(words_of(text))


def test_tokens_of_two_words_give_no_words():
    surfaces = [*SURFACES[:6], " a b", *SURFACES[7:]]
    tokens = np.array([6, 2])
    assert word_log_probs(tokens, np.zeros(2), np.zeros(2), surfaces) is None


def test_windows_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="overlap by 8"):
        Windows.of_documents(DOCUMENTS, 8, 8)
