"""Questions made of a corpus, whose answers are known: to measure what finds and what refuses.

They are made by rule, in the words of the passages with some of the asker's own: a person asks more
freely, so the figures compare methods and thresholds, and promise nothing of anybody's questions.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from minirec.recommend.passages.passage import Passage

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+|(?<=[。！？])")
# What a person puts around the words that matter; some of it says something, and is nowhere in the
# passage.
_FRAMES = (
    "What links {} and {}?",
    "Why did {} matter for {}?",
    "How was {} changed by {}?",
    "Which part do {} and {} play here?",
    "Can you compare {} with {}?",
    "What happened to {} after {}?",
    "Is there any reason behind {} and {}?",
    "When were {} and {} first seen together?",
)
_MOST_WORDS = 4  # of a sentence, in a question
_LEAST_WORDS = 5  # that a sentence must have to be asked about


@dataclasses.dataclass(frozen=True)
class HeadingQuestion:
    """A question after what stands below a heading.

    Attributes:
        text: the question.
        answers: numbers of the passages there.
    """

    text: str
    answers: frozenset[int]


def heading_questions(passages: Iterable[Passage], count: int, seed: int) -> list[HeadingQuestion]:
    """Returns so many questions at most, of titles and section heads; by lot where there are more.

    Passages without headings are asked about by nobody.
    """
    below: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for number, passage in enumerate(passages):
        if passage.section_path:
            below.setdefault((passage.source_url, passage.section_path), []).append(number)
    keys = list(below)
    chosen = np.random.default_rng(seed).permutation(len(keys))[:count]
    questions = []
    for place in sorted(chosen.tolist()):
        title, *sections = keys[place][1]
        text = (
            f"What is said about the {sections[-1]} of {title}?"
            if sections
            else (f"What is {title}?")
        )
        questions.append(HeadingQuestion(text, frozenset(below[keys[place]])))
    return questions


@dataclasses.dataclass(frozen=True)
class TopicQuestion:
    """A question after something that a passage speaks of.

    Attributes:
        text: the question.
        covered: whether the passage is among those that can be found.
    """

    text: str
    covered: bool


def topic_questions(
    known: Sequence[Passage],
    unknown: Sequence[Passage],
    count: int,
    seed: int,
    content_words: Callable[[str], dict[str, str]],
) -> list[TopicQuestion]:
    """Returns questions, half of them about passages that cannot be found.

    Args:
        known: passages that can be found.
        unknown: passages of other documents, that cannot.
        count: how many; even.
        seed: of the draws.
        content_words: from a text to its content words.

    Raises:
        ValueError: there is no passage that can be asked about on a side.
    """
    rng = np.random.default_rng(seed)
    found: list[TopicQuestion] = []
    for passages, covered in ((known, True), (unknown, False)):
        asked = 0
        for _ in range(50 * count):
            if asked == count // 2 or not passages:
                break
            passage = passages[int(rng.integers(len(passages)))]
            if text := _question(passage, rng, content_words):
                found.append(TopicQuestion(text, covered))
                asked += 1
        if asked < count // 2:
            side = "known" if covered else "left out"
            raise ValueError(
                f"of {len(passages)} passages {side} only {asked} questions can be made; it takes "
                f"{count // 2}"
            )
    return found


def _question(
    passage: Passage, rng: np.random.Generator, content_words: Callable[[str], dict[str, str]]
) -> str:
    """Returns a question after a sentence; "" where that has too few words."""
    sentences = [text for text in _SENTENCE.split(passage.text) if text.strip()]
    if not sentences:
        return ""
    spelled = list(content_words(sentences[int(rng.integers(len(sentences)))]).values())
    if len(spelled) < _LEAST_WORDS:
        return ""
    size = int(rng.integers(2, _MOST_WORDS + 1))
    words = [spelled[place] for place in sorted(rng.permutation(len(spelled))[:size].tolist())]
    if passage.section_path and rng.random() < 0.5:
        words[0] = passage.section_path[0]
    frame = _FRAMES[int(rng.integers(len(_FRAMES)))]
    return frame.format(" ".join(words[: size // 2]), " ".join(words[size // 2 :]))
