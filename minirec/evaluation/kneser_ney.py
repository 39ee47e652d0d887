"""An interpolated Kneser-Ney model of word sequences: what a language model must at least beat.

Kneser and Ney (1995) with the three discounts an order of Chen and Goodman (1998), which are taken
from how many n-grams occur once, twice, and so on. The lowest order is interpolated with a uniform
distribution over a vocabulary that is given, so that a word that was never read has a probability.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

ORDER = 5
_Gram = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Context:
    """What followed a context: the sum of its counts, and the mass that its discounts leave."""

    total: int
    left: float


@dataclasses.dataclass(frozen=True, eq=False)
class KneserNey:
    """A fitted model.

    Attributes:
        order: words of the longest n-gram.
        vocab_size: words of the vocabulary, those that were never read among them.
        counts: how often each n-gram occurred, by the longest order; of shorter ones, how many
            different words stood before it.
        contexts: what followed each context.
        discounts: of each order from 1 on, what is taken off a count of 1, of 2, and of more.
    """

    order: int
    vocab_size: int
    counts: dict[_Gram, int]
    contexts: dict[_Gram, _Context]
    discounts: tuple[tuple[float, float, float], ...]

    @classmethod
    def fit(cls, words: Iterable[int], vocab_size: int, order: int = ORDER) -> KneserNey:
        """Returns the model of a text.

        Args:
            words: the text, as numbers from 0.
            vocab_size: one more than the largest number of a word that may ever come.
            order: words of the longest n-gram.

        Raises:
            ValueError: an order below 1, too few words, or one outside the vocabulary.
        """
        words = [int(word) for word in words]
        if order < 1 or len(words) < order:
            raise ValueError(f"order={order}: must be from 1 to the text's {len(words)} words")
        if min(words) < 0 or max(words) >= vocab_size:
            raise ValueError(
                f"words lie in [{min(words)}, {max(words)}]: must lie in [0, {vocab_size})"
            )
        grams = collections.Counter(zip(*(words[place:] for place in range(order)), strict=False))
        counts, contexts, discounts = {}, {}, []
        for _ in range(order):
            found = _discounts(collections.Counter(grams.values()))
            discounts.insert(0, found)
            totals: collections.Counter[_Gram] = collections.Counter()
            left: dict[_Gram, float] = collections.defaultdict(float)
            for gram, count in grams.items():
                totals[gram[:-1]] += count
                left[gram[:-1]] += found[min(count, 3) - 1]
            contexts |= {c: _Context(total, left[c] / total) for c, total in totals.items()}
            counts |= grams
            # Each different n-gram says once that its end has one more word before it.
            grams = collections.Counter(gram[1:] for gram in grams)
        return cls(order, vocab_size, counts, contexts, tuple(discounts))

    def log_probs(self, words: Iterable[int]) -> Float[np.ndarray, " n"]:
        """Returns the log-probability, in nats, of each word of a text behind those before it."""
        words = [int(word) for word in words]
        return np.array(
            [
                math.log(self.probability(words[max(0, at - self.order + 1) : at], word))
                for at, word in enumerate(words)
            ]
        )

    def probability(self, context: Sequence[int], word: int) -> float:
        """Returns the probability of a word behind a context, of which the newest words count."""
        context = tuple(context)[max(0, len(context) - self.order + 1) :]
        probability = 1.0 / self.vocab_size
        for size in range(len(context) + 1):
            seen = context[len(context) - size :]
            followed = self.contexts.get(seen)
            if followed is None:
                break  # Nor was a longer one.
            count = self.counts.get((*seen, word), 0)
            taken = self.discounts[size][min(count, 3) - 1] if count else 0.0
            probability = (count - taken) / followed.total + followed.left * probability
        return probability


def _discounts(counts_of_counts: collections.Counter[int]) -> tuple[float, float, float]:
    """Returns Chen and Goodman's discounts; one half where a small text does not tell them."""
    n = [counts_of_counts[count] for count in range(1, 5)]
    if not n[0] or not n[1]:
        return 0.5, 0.5, 0.5
    share = n[0] / (n[0] + 2 * n[1])
    found = []
    for count in range(1, 4):
        following = n[count] / n[count - 1] if n[count - 1] else 0.0
        found.append(min(max(count - (count + 1) * share * following, 0.1), count - 0.1))
    return found[0], found[1], found[2]


def best_mixture(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], steps: int = 30
) -> float:
    """Returns the share of `first` in the mixture of two models that explains a text best.

    By expectation maximisation over the probabilities of its words, which has one maximum.

    Args:
        first: log-probabilities of the text's words.
        second: those of the other model.
        steps: of expectation maximisation.
    """
    share = 0.5
    with np.errstate(over="ignore"):
        ratio = np.exp(np.clip(second - first, -700, 700))
    for _ in range(steps):
        share = float(np.mean(share / (share + (1 - share) * ratio)))
    return share


def mixed(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], share: float
) -> Float[np.ndarray, " n"]:
    """Returns the log-probabilities of a mixture with that share of `first`, from 0 to 1."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(first + np.log(share), second + np.log1p(-share))


def numbered(
    train: Sequence[str], text: Sequence[str]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " n"], int]:
    """Returns two texts' words as numbers, and the size of the union of both vocabularies."""
    number: dict[str, int] = {}
    both = [
        np.array([number.setdefault(word, len(number)) for word in words], np.int32)
        for words in (train, text)
    ]
    return both[0], both[1], len(number)
