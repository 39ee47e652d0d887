"""A text's words, as they are searched for: folded, stemmed, and of every script.

English words lose their endings by a short list of rules, so that "trains", "trained" and
"training" are one; words of other scripts stay as they are. Scripts that put no blanks between
words are read as pairs of neighbouring letters.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# Thai to Burmese, Khmer, kana, Han.
_NO_BLANKS = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")
_VOWEL = re.compile(r"[aeiouy]")
_POSSESSIVE = re.compile(r"['’]s?$")
_DOUBLED = re.compile(r"([bdfgmnprt])\1$")
_LONG_ENDINGS = (
    *(("ization", "ize"), ("isation", "ise"), ("ational", "ate"), ("fulness", "ful")),
    *(("iveness", "ive"), ("ousness", "ous"), ("biliti", "ble"), ("ibility", "ible")),
    *(("ability", "able"), ("ically", "ic"), ("ments", "ment"), ("nesses", ""), ("ness", "")),
    *(("ities", ""), ("ity", ""), ("ation", "ate"), ("ly", "")),
)


def words(text: str) -> list[str]:
    """Returns a text's words in order, folded, none of them stemmed."""
    return [word for word, _ in spelled_words(text)]


def stems(text: str) -> list[str]:
    """Returns the stems of a text's words, in order."""
    return [stem(word) for word in words(text)]


def spelled_words(text: str) -> Iterator[tuple[str, str]]:
    """Yields each word of a text, folded, and as it is spelled there."""
    for match in _WORD.finditer(text):
        word = match[0]
        if word.isascii() or not _NO_BLANKS.search(word):
            yield word.casefold(), word
            continue
        end = 0
        for run in _NO_BLANKS.finditer(word):
            if run.start() > end:
                yield word[end : run.start()].casefold(), word[end : run.start()]
            for pair in _pairs(run[0]):
                yield pair, pair
            end = run.end()
        if end < len(word):
            yield word[end:].casefold(), word[end:]


def content_words(text: str, stop_words: Iterable[str]) -> dict[str, str]:
    """Returns the words that say what a text is about: their stems, and how each is spelled first.

    Args:
        text: a question, say.
        stop_words: that say nothing; words that share their stem say something.
    """
    stop = frozenset(stop_words)
    found: dict[str, str] = {}
    for word, spelling in spelled_words(text):
        plain = _POSSESSIVE.sub("", word)
        if plain and plain not in stop and word not in stop:
            found.setdefault(stem(word), spelling)
    return found


@functools.lru_cache(1 << 16)
def stem(word: str) -> str:
    """Returns a folded word without its English endings.

    The rules are of the kind of Porter's ("An algorithm for suffix stripping", 1980): fewer, since
    a stem must only be the same for the forms of a word, and need be no word.
    """
    word = _POSSESSIVE.sub("", word)
    if not word.isascii() or not word.isalpha() or len(word) < 4:
        return word
    word = _without_ed_ing(_without_plural(word))
    for ending, kept in _LONG_ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + kept
            break
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if word.endswith("y") and len(word) > 3 and word[-2] not in "aeiou":
        word = word[:-1] + "i"
    return word


def _without_plural(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 4 else word[:-1]
    if word.endswith(("xes", "ches", "shes", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _without_ed_ing(word: str) -> str:
    for ending in ("ing", "ed"):
        rest = word[: -len(ending)]
        if word.endswith(ending) and len(rest) >= 2 and _VOWEL.search(rest) and word != "need":
            if word.endswith("eed"):
                return word[:-1] if len(word) > 5 else word
            if _DOUBLED.search(rest) and len(rest) > 3:
                return rest[:-1]
            if rest.endswith("i"):
                return rest[:-1] + "y"
            return rest
    return word


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    for place in range(len(run) - 1):
        yield run[place : place + 2]
