"""Whether a passage says what a sentence says, as far as words can tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from minirec.recommend.passages.passage import Passage
from minirec.recommend.passages.words import stems

ContentWords = Callable[[str], dict[str, str]]
_END = re.compile(r"[.!?…؟۔।][\"'”’»)\]]*(?=\s)|[。！？][」』”]?|\n+")
_MOST_SHOWN = 400  # letters of a quotation


def sentences(text: str) -> Iterator[str]:
    """Yields a text's sentences, one behind the other the text."""
    start = 0
    for match in _END.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    if start < len(text):
        yield text[start:]


def first_sentence(text: str) -> str:
    """Returns a growing text's first sentence, once it is whole; "" before that."""
    match = _END.search(text)
    return text[: match.end()] if match else ""


def support(sentence: str, passages: Sequence[Passage], content_words: ContentWords) -> float:
    """Returns the share of a sentence's content words that one passage holds; at best.

    0 for a sentence without any.
    """
    said = content_words(sentence).keys()
    if not said:
        return 0.0
    return max((len(said & _held(passage)) / len(said) for passage in passages), default=0.0)


def best_sentence(
    question: str, passages: Sequence[Passage], content_words: ContentWords
) -> tuple[str, int]:
    """Returns the sentence that holds most of a question's words, and the place of its passage.

    Of equals the first; a long one is cut behind a word.
    """
    asked = content_words(question).keys()
    best, where, most = "", 0, -1
    for place, passage in enumerate(passages):
        for sentence in sentences(passage.text):
            held = len(asked & set(stems(sentence)))
            if held > most and content_words(sentence):
                best, where, most = sentence.strip(), place, held
    if len(best) > _MOST_SHOWN:
        best = best[:_MOST_SHOWN].rpartition(" ")[0] + " …"
    return best, where


def _held(passage: Passage) -> set[str]:
    return set(stems(passage.all_text))
