"""Words of a text, and their probabilities by a model that writes pieces of words.

A word is what stands between blanks, and a line's end is one, too: the published tokens of WikiText
where the text is WikiText.

The product of a word's pieces is the probability of all words that begin so. What makes it that of
this word is the probability that the next piece begins another; that piece's own is divided by it
in turn (Pimentel and Meister, "How to Compute the Probability of a Word", 2024). Of a word's
spellings the tokenizer's is counted alone, so the words' probabilities sum to at most 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

_WORD = re.compile(r"\n|\S+")


def words_of(text: str) -> list[str]:
    """Returns a text's words and line ends."""
    return _WORD.findall(text)


def beginnings(surfaces: Sequence[str], ends: Sequence[int]) -> Bool[np.ndarray, " V"]:
    """Returns which tokens end the word before them: blanks, and the document's end.

    Args:
        surfaces: each token's text.
        ends: tokens that end a document.
    """
    found = np.array([surface[:1].isspace() for surface in surfaces], bool)
    found[list(ends)] = True
    return found


def word_log_probs(
    tokens: Int[np.ndarray, " n"],
    log_probs: Float[np.ndarray, " n"],
    begin_log_probs: Float[np.ndarray, " n"],
    surfaces: Sequence[str],
) -> Float[np.ndarray, " words"] | None:
    """Returns the log-probability of each word of a document; None where tokens span two words.

    Args:
        tokens: the document's predicted tokens, its end last.
        log_probs: of each.
        begin_log_probs: that its place's token ends the word before it; see `beginnings`.
        surfaces: each token's text, by number.
    """
    found: list[float] = []
    pending, word = 0.0, ""  # What belongs to the next word; the word that is being read.
    for token, log_prob, begin in zip(tokens[:-1], log_probs, begin_log_probs, strict=False):
        text = surfaces[token]
        if word and (word == "\n" or text[:1].isspace()):
            if word != "\n":  # Behind a line's end another word begins for sure.
                found[-1] += float(begin)
                log_prob = log_prob - begin
            word = ""
        pending += float(log_prob)
        content = text.strip(" \t\r")
        if not content:
            continue
        if content != "\n" and any(letter.isspace() for letter in content):
            return None
        if not word:
            found.append(0.0)
        found[-1] += pending
        pending, word = 0.0, content if content == "\n" else word + content
    if word and word != "\n":
        found[-1] += float(begin_log_probs[-1])
    if found:
        found[-1] += pending
    return np.array(found)
