"""How well passages are found, and how well a gate tells what is covered."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Int

from minirec.recommend.passages.bm25 import Bm25Index, best
from minirec.recommend.passages.gate import Gate
from minirec.recommend.passages.passage import Passage
from minirec.recommend.passages.questions import HeadingQuestion, TopicQuestion
from minirec.recommend.passages.words import words

CUTS = (1, 5, 10)
_DEPTH = 100  # places in which an answer is looked for
_LEAST = (1, 2, 3, 4)
_RATIOS = tuple(round(0.05 * step, 2) for step in range(4, 20))
Search = Callable[[str, int], Int[np.ndarray, " n"]]


def retrieval_measures(search: Search, questions: Sequence[HeadingQuestion]) -> dict[str, float]:
    """Returns recall@k and the mean reciprocal rank, over some questions.

    recall@k is the share of questions that have one of their passages among the first `k`; the
    reciprocal rank of one that has none among the first 100 is 0.
    """
    ranks = []
    for question in questions:
        found = search(question.text, _DEPTH).tolist()
        places = (place for place, number in enumerate(found, 1) if number in question.answers)
        ranks.append(next(places, np.inf))
    ranks = np.array(ranks)
    recall = {f"recall@{k}": float(np.mean(ranks <= k)) for k in CUTS}
    return recall | {"mrr": float(np.mean(1.0 / ranks))}


def overlap_search(
    passages: Iterable[Passage], stop_words: frozenset[str], *, headings: bool
) -> Search:
    """Returns a search by the number of a question's words that are spelled in a passage.

    Words need not be whole: it is what BM25 is compared with.
    """
    texts = [(passage.all_text if headings else passage.text).casefold() for passage in passages]

    def search(question: str, k: int) -> Int[np.ndarray, " n"]:
        asked = [word for word in dict.fromkeys(words(question)) if word not in stop_words]
        scores = np.array([sum(word in text for word in asked) for text in texts], np.float32)
        return best(scores, k)

    return search


@dataclasses.dataclass(frozen=True)
class GateFigures:
    """How a gate does on questions.

    Attributes:
        precision: share of what is answered that is covered.
        recall: share of what is covered that is answered.
        answered: how many are answered.
    """

    precision: float
    recall: float
    answered: int

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


class GateTrial:
    """Questions with what was found for each, to try thresholds on."""

    def __init__(
        self, index: Bm25Index, questions: Sequence[TopicQuestion], gate: Gate, passages: int
    ):
        """Finds passages once.

        Args:
            index: holds what is covered.
            questions: with what is true of each.
            gate: its stop words, and the thresholds of the rule that it is compared with.
            passages: how many are looked at.
        """
        self._covered = np.array([question.covered for question in questions])
        self._stop_words = gate.stop_words
        self._asked, self._held, substring = [], [], []
        for question in questions:
            found = [index.passages[n] for n in index.search(question.text, passages).tolist()]
            verdict = gate.judge(question.text, found)
            self._asked.append(len(verdict.words))
            self._held.append(len(verdict.matched))
            substring.append(gate.substring_rule(question.text, found))
        self._substring = np.array(substring)

    def figures(self, least: int, ratio: float) -> GateFigures:
        """Returns how the gate does with these thresholds."""
        gate = Gate(least, ratio, self._stop_words)
        held = zip(self._asked, self._held, strict=True)
        return self._figures(np.array([n > 0 and m >= gate.needed(n) for n, m in held]))

    def substring_figures(self) -> GateFigures:
        """Returns how the rule does that looks for spellings in any passage."""
        return self._figures(self._substring)

    def best_thresholds(self) -> tuple[int, float]:
        """Returns the thresholds with the best F1; of equals the strictest."""
        return max(
            itertools.product(_LEAST, _RATIOS),
            key=lambda pair: (round(self.figures(*pair).f1, 9), pair[1], pair[0]),
        )

    def _figures(self, answered: np.ndarray) -> GateFigures:
        right = int((answered & self._covered).sum())
        return GateFigures(
            precision=right / max(int(answered.sum()), 1),
            recall=right / max(int(self._covered.sum()), 1),
            answered=int(answered.sum()),
        )
