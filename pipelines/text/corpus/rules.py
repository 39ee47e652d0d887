"""What of a section becomes passages, and what is left out for which reason."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Iterator

import numpy as np

from pipelines.text.corpus.config import CorpusConfig
from pipelines.text.corpus.cutting import cut
from pipelines.text.corpus.documents import Piece

REASONS = (
    *("headings", "whitespace", "section", "phrase", "long", "short", "upper_case", "keyword"),
    *("near_duplicate", "same_document", "evaluation_document", "max_chunks"),
)
"""Why letters of a document are in no passage."""

_LEAST_CASED = 40  # letters of a line or passage whose share of upper case says something
_CODES = 0x20000  # code points that are looked up: beyond them no script has cases
_BLANKS = re.compile(r"[^\S\n]+")
_AROUND_END = re.compile(r" ?\n ?")
_EMPTY_LINES = re.compile(r"\n{3,}")


class LeftOut:
    """Counts what is left out.

    Attributes:
        characters: by reason.
        passages: by reason: passages, lines or sections.
        with_keyword: those of them that hold the keyword that is required.
    """

    def __init__(self, keyword: str = ""):
        """Begins at 0; `keyword` is the one that is required, if any."""
        self.characters = collections.Counter(dict.fromkeys(REASONS, 0))
        self.passages = collections.Counter(dict.fromkeys(REASONS, 0))
        self.with_keyword: collections.Counter[str] = collections.Counter()
        self._keyword = keyword.casefold()

    def add(self, reason: str, text: str) -> None:
        """Counts a text that is left out."""
        if not text:
            return
        self.characters[reason] += len(text)
        self.passages[reason] += 1
        if self._keyword and self._keyword in text.casefold():
            self.with_keyword[reason] += 1


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of a config."""

    config: CorpusConfig
    left_out: LeftOut

    def passages(self, piece: Piece) -> Iterator[str]:
        """Yields the texts of a section's passages; what is left out is counted."""
        config, left_out = self.config, self.left_out
        text = piece.section.text
        left_out.characters["headings"] += piece.section.heading_chars
        if config.whitespace == "normalise":
            normalised = normalise(text)
            left_out.characters["whitespace"] += len(text) - len(normalised)
            text = normalised
        if self._is_dropped(piece):
            left_out.add("section", text)
            return
        text = self._without_boxes(text)
        if config.long == "drop" and len(text) > config.max_chars:
            left_out.add("long", text)
            return
        for part in cut(text, config.min_chars, config.max_chars):
            if config.whitespace == "normalise":
                stripped = part.strip()
                left_out.characters["whitespace"] += len(part) - len(stripped)
                part = stripped
            reason = self._reason(part, piece.section.path)
            if reason:
                left_out.add(reason, part)
            elif part:
                yield part

    def _is_dropped(self, piece: Piece) -> bool:
        path = piece.section.path
        names = path[1:] if path[:1] == (piece.title,) else path
        dropped = {name.casefold() for name in self.config.drop_sections}
        return any(name.strip().rstrip(":").casefold() in dropped for name in names)

    def _without_boxes(self, text: str) -> str:
        """Returns a section's text without the lines that are no prose."""
        phrases = [phrase.casefold() for phrase in self.config.drop_phrases]
        lowered = text.casefold()
        phrases = [phrase for phrase in phrases if phrase in lowered]
        most = self.config.max_upper_share
        kept = []
        for line in text.splitlines(keepends=True):
            if phrases and any(phrase in line.casefold() for phrase in phrases):
                self.left_out.add("phrase", line)
            elif upper_share(line, _LEAST_CASED) > most:
                self.left_out.add("upper_case", line)
            else:
                kept.append(line)
        return "".join(kept)

    def _reason(self, text: str, path: tuple[str, ...]) -> str:
        """Returns why a passage is left out; "" where it is not."""
        config = self.config
        if len(text) < config.min_chars:
            return "short"
        if upper_share(text, _LEAST_CASED) > config.max_upper_share:
            return "upper_case"
        keyword = config.include_keyword.casefold()
        if keyword and keyword not in "\n".join((text, *path)).casefold():
            return "keyword"
        return ""


def upper_share(text: str, least: int) -> float:
    """Returns the share of upper case among a text's letters that have a case.

    0 where it has fewer than `least`: a short one may well be an abbreviation.
    """
    if len(text) < least:
        return 0.0
    codes = np.minimum(np.frombuffer(text.encode("utf-32-le"), np.uint32), _CODES - 1)
    upper, lower = _cases()
    num_upper = int(upper[codes].sum())
    cased = num_upper + int(lower[codes].sum())
    return num_upper / cased if cased >= max(least, 1) else 0.0


@functools.cache
def _cases() -> tuple[np.ndarray, np.ndarray]:
    """Whether each code point is upper or lower case."""
    letters = [chr(code) for code in range(_CODES)]
    upper, lower = ([test(letter) for letter in letters] for test in (str.isupper, str.islower))
    return np.array(upper), np.array(lower)


def normalise(text: str) -> str:
    """Returns a text with single blanks, lines without blanks around them, one empty line at most.

    It never is longer than before.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _AROUND_END.sub("\n", _BLANKS.sub(" ", text))
    return _EMPTY_LINES.sub("\n\n", text).strip()
