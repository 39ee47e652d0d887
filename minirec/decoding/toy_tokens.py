"""A tokenisation that needs no files: enough to see how an answer's prefixes are cut."""

from __future__ import annotations

import itertools
import re

from minirec.decoding.answer_mask import Family

_FIRST = 10
# GPT-2 keeps a colon and a line end apart; Qwen and Llama 3 have one token for both.
_JOINED = re.compile(r"<[^<>]*>|:\n|\n| ?\w+|#+|\S| ")
_APART = re.compile(r"<[^<>]*>|\n| ?\w+|#+|\S| ")
BOS = 1


class ToyTokens:
    """Numbers pieces of text in the order in which they come up.

    Attributes:
        pieces: the text of each token.
    """

    def __init__(self, family: Family, end: int):
        """Makes one.

        Args:
            family: Llama's puts `BOS` first, GPT-2's takes the marker for four pieces.
            end: a number that no piece gets.
        """
        self._pattern = _APART if family.name == "gpt2" else _JOINED
        self._first = [BOS] if family.strips_first else []
        self._numbers: dict[str, int] = {}
        self._free = (number for number in itertools.count(_FIRST) if number != end)
        self.pieces = {BOS: "<bos>", end: "<end>"}

    def __call__(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        found = self._pattern.findall(text)
        for piece in found:
            if piece not in self._numbers:
                number = self._numbers[piece] = next(self._free)
                self.pieces[number] = piece
        return self._first + [self._numbers[piece] for piece in found]
