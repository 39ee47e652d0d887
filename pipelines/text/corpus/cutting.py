"""Long texts to pieces that end where a sentence does."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Behind a paragraph, behind a sentence of any script, behind a word: the best first.
_ENDS = (
    re.compile(r"\n\s*"),
    re.compile(r"[.!?…؟۔।][\"'”’»)\]]*\s+|[。！？]+[」』”]?\s*"),
    re.compile(r"\s+"),
)


def cut(text: str, least: int, most: int) -> Iterator[str]:
    """Yields pieces of a text that are the text, one behind the other.

    A piece ends behind a paragraph where one ends in its second half, else behind a sentence, else
    behind a word, else anywhere. No piece is shorter than `least` in favour of the one before it.

    Args:
        text: what is cut.
        least: letters of the last piece at least, where the text is longer than `most`.
        most: letters of a piece at most; at least twice `least`.
    """
    start = 0
    while (left := len(text) - start) > most:
        limit = start + min(most, max(left - least, 1))
        end = _end(text, start, limit, max(least, 1))
        yield text[start:end]
        start = end
    yield text[start:]


def _end(text: str, start: int, limit: int, least: int) -> int:
    middle = start + max(least, (limit - start) // 2)
    for ends, first in zip(_ENDS, (middle, start + least, start + least), strict=True):
        found = 0
        for match in ends.finditer(text, first, limit):
            # What is cut off by `limit` may go on: "3." of "3.5", blanks of many.
            found = match.end()
        if first < found <= limit:
            return found
    return limit
