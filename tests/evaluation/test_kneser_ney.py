"""The interpolated Kneser-Ney model beside one that is written out from the definition."""

import itertools
import math

import numpy as np
import pytest

from minirec.evaluation.kneser_ney import KneserNey, best_mixture, mixed, numbered

RANDOM = np.random.default_rng(0)
TEXT = RANDOM.zipf(1.6, 400) % 9
VOCAB = 11  # Two words never come.


def plain(text, context, word, order):
    """Kneser and Ney's formula, counted anew for each word, with Chen and Goodman's discounts."""

    def grams(size):
        return [tuple(text[at : at + size]) for at in range(len(text) - size + 1)]

    def counts(size):
        if size == order:
            found = grams(size)
        else:  # How many different words stand before: of the longest n-grams' ends.
            wider = set(counts(size + 1))
            found = [gram[1:] for gram in wider]
        return {gram: found.count(gram) for gram in set(found)}

    def discount(values, count):
        n = [sum(value == times for value in values) for times in range(1, 5)]
        if not n[0] or not n[1]:
            return 0.5
        times = min(count, 3)
        share = n[0] / (n[0] + 2 * n[1])
        ratio = n[times] / n[times - 1] if n[times - 1] else 0.0
        return min(max(times - (times + 1) * share * ratio, 0.1), times - 0.1)

    probability = 1 / VOCAB
    for size in range(1, order + 1):
        if size - 1 > len(context):
            break
        seen = tuple(context[len(context) - size + 1 :])
        table = counts(size)
        followed = {gram: count for gram, count in table.items() if gram[:-1] == seen}
        if not followed:
            break
        total = sum(followed.values())
        values = list(table.values())
        taken = sum(discount(values, count) for count in followed.values())
        count = followed.get((*seen, word), 0)
        own = count - discount(values, count) if count else 0.0
        probability = own / total + taken / total * probability
    return probability


@pytest.fixture(scope="module")
def model():
    return KneserNey.fit(TEXT, VOCAB, order=3)


def test_probabilities_are_those_of_the_definition(model):
    contexts = [(), (1,), (10,), (2, 1), (1, 1), (10, 1), (1, 10), (3, 4, 1, 2)]
    for context, word in itertools.product(contexts, (0, 1, 7, 10)):
        expected = plain(TEXT.tolist(), context, word, 3)
        assert model.probability(context, word) == pytest.approx(expected, rel=1e-12)


def test_probabilities_of_all_words_sum_to_one_behind_any_context(model):
    for context in ((), (1,), (10,), (2, 1), (10, 9), (1, 2, 3, 4)):
        total = math.fsum(model.probability(context, word) for word in range(VOCAB))
        assert total == pytest.approx(1, rel=1e-12)
        assert model.probability(context, 10) > 0


def test_a_texts_log_probabilities_look_back_as_far_as_the_order(model):
    text = [1, 2, 10, 1, 1, 2]
    found = model.log_probs(text)
    for at, word in enumerate(text):
        context = text[max(0, at - 2) : at]
        assert found[at] == pytest.approx(math.log(model.probability(context, word)), rel=1e-12)


def test_words_of_two_texts_share_their_numbers():
    first, second, size = numbered(["a", "b", "a"], ["b", "c"])
    assert (first.tolist(), second.tolist(), size) == ([0, 1, 0], [1, 2], 3)


def test_the_best_mixture_explains_a_text_better_than_any_other():
    first, second = np.log(RANDOM.dirichlet(np.ones(8), 2) + 1e-3)
    drawn = RANDOM.integers(0, 8, 300)
    one, other = first[drawn], second[drawn]
    share = best_mixture(one, other, steps=200)
    reached = mixed(one, other, share).sum()
    for rival in np.linspace(0.01, 0.99, 99):
        assert mixed(one, other, rival).sum() <= reached + 1e-6


@pytest.mark.parametrize(
    ("words", "size", "order", "message"),
    [([1, 2], 5, 3, "order=3"), ([1, 2], 5, 0, "order=0"), ([1, 7], 5, 2, r"must lie in \[0, 5\)")],
)
def test_what_cannot_be_fitted_is_refused(words, size, order, message):
    with pytest.raises(ValueError, match=message):
        KneserNey.fit(words, size, order)
