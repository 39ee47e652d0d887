"""Whether a question is covered by what was found: a passage must hold its content words.

Of a question's `n` content words one passage must hold at least `max(min(n, least), ⌈n · ratio⌉)`,
as whole words after stemming: "able" is not in "table". Words of several passages do not add up:
each may be of another matter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from minirec.files.schema import require_whole
from minirec.recommend.passages.passage import Passage
from minirec.recommend.passages.words import content_words, stems, words


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the gate says of a question.

    Attributes:
        covered: whether it may be answered.
        words: its content words, as they are spelled there.
        needed: how many of them a passage must hold.
        matched: those that the best passage holds.
        missing: those that it does not.
        passage: place of the best passage among those looked at; None where none holds a word.
    """

    covered: bool
    words: tuple[str, ...]
    needed: int
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    passage: int | None


@dataclasses.dataclass(frozen=True)
class Gate:
    """The gate's settings.

    Attributes:
        min_keyword_matches: content words that a passage must hold at least, of a question that has
            so many.
        match_ratio: share of a question's content words that a passage must hold.
        stop_words: words that say nothing of what a question is about.
    """

    min_keyword_matches: int = 2
    match_ratio: float = 0.4
    stop_words: frozenset[str] = frozenset()

    def __post_init__(self):
        require_whole("config.gate.min_keyword_matches", self.min_keyword_matches)
        if not 0.0 <= self.match_ratio <= 1.0:
            raise ValueError(f"config.gate.match_ratio={self.match_ratio!r}: must lie in [0, 1]")

    def content_words(self, text: str) -> dict[str, str]:
        """Returns a text's content words: stem and spelling."""
        return content_words(text, self.stop_words)

    def needed(self, num_words: int) -> int:
        """Returns how many of so many content words a passage must hold."""
        # A product such as .55 * 100 lies a little above 55 in binary.
        share = math.ceil(round(num_words * self.match_ratio, 9))
        return max(min(num_words, self.min_keyword_matches), share)

    def judge(self, question: str, passages: Sequence[Passage]) -> Verdict:
        """Returns whether one of the passages covers a question; of equals the first is the best.

        A question without content words is covered by nothing.
        """
        asked = self.content_words(question)
        held = [asked.keys() & set(stems(passage.all_text)) for passage in passages]
        best = max(range(len(held)), key=lambda place: len(held[place]), default=None)
        found = held[best] if best is not None else set()
        needed = self.needed(len(asked))
        return Verdict(
            covered=bool(asked) and len(found) >= needed,
            words=tuple(asked.values()),
            needed=needed,
            matched=tuple(spelled for word, spelled in asked.items() if word in found),
            missing=tuple(spelled for word, spelled in asked.items() if word not in found),
            passage=best if found else None,
        )

    def substring_rule(self, question: str, passages: Sequence[Passage]) -> bool:
        """Returns what a gate says that looks for spellings anywhere in any passage.

        It is what `judge` is compared with: words need not be whole, and those of all passages add
        up.
        """
        asked = [word for word in dict.fromkeys(words(question)) if word not in self.stop_words]
        text = "\n".join(passage.all_text.casefold() for passage in passages)
        found = sum(word in text for word in asked)
        return bool(asked) and found >= self.needed(len(asked))
