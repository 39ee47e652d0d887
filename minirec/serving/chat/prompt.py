"""What a model reads before it answers: passages and their sources, what was said, the question."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Int32
from numpy import ndarray

from minirec.recommend.passages.passage import Passage

ENDS = ("\nQuestion:", "\nPassage from ", "\nAnswer:")
"""Where an answer ends: what follows is the next thing that a model has learnt to write."""


class Spelling(Protocol):
    """Text to tokens and back."""

    @property
    def bos_id(self) -> int:
        """Begins a document."""
        ...

    @property
    def eos_id(self) -> int:
        """Ends a document."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Int32[ndarray, " n"]]:
        """Returns the tokens of each text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of tokens; a letter that is not whole ends in U+FFFD."""
        ...


@dataclasses.dataclass(frozen=True)
class Turn:
    """A question and what was answered."""

    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a model reads.

    Attributes:
        tokens: its tokens.
        passages: those that found room, as they were read.
        turns: earlier turns that found room.
    """

    tokens: tuple[int, ...]
    passages: tuple[Passage, ...]
    turns: tuple[Turn, ...]


def passage_text(passage: Passage) -> str:
    """Returns a passage as a model reads it."""
    return f"Passage from {passage.heading}:\n{passage.text}\n\n"


def question_text(question: str, answer: str = "") -> str:
    """Returns a question as a model reads it, with its answer or up to it."""
    return f"Question: {question}\nAnswer:{' ' + answer if answer else ''}"


def make_prompt(
    spelling: Spelling,
    question: str,
    passages: Sequence[Passage],
    turns: Sequence[Turn],
    room: int,
) -> Prompt:
    """Returns a prompt of at most `room` tokens.

    Where all does not fit, the oldest turns go first, then the shortest passages but for the best,
    which is cut at its end where it stands alone.

    Args:
        spelling: the tokenizer.
        question: what is asked.
        passages: best first.
        turns: earlier ones, oldest first.
        room: tokens at most.

    Raises:
        ValueError: the question alone does not fit.
    """
    asked = spelling.encode([question_text(question)])[0].tolist()
    begin = [spelling.bos_id]
    left = room - len(begin) - len(asked)
    if left < 0:
        raise ValueError(
            f"the question has {len(asked)} tokens; {room - len(begin)} fit into what the model "
            "reads: ask in fewer words"
        )
    shown = [(passage, _tokens(spelling, passage)) for passage in passages]
    said = [(turn, _said(spelling, turn)) for turn in turns]
    while said and _size(shown) + _size(said) > left:
        said.pop(0)
    while len(shown) > 1 and _size(shown) > left:
        # Of equals the one that was found later.
        shortest = min(range(1, len(shown)), key=lambda place: (len(shown[place][1]), -place))
        shown.pop(shortest)
    if shown and _size(shown) > left:
        passage, tokens = shown[0]
        shown = [(passage, tokens[:left])] if left > 0 else []
    tokens = [token for _, part in (*shown, *said) for token in part]
    return Prompt(
        tuple(begin + tokens + asked),
        tuple(passage for passage, _ in shown),
        tuple(turn for turn, _ in said),
    )


def _tokens(spelling: Spelling, passage: Passage) -> list[int]:
    return spelling.encode([passage_text(passage)])[0].tolist()


def _said(spelling: Spelling, turn: Turn) -> list[int]:
    return spelling.encode([question_text(turn.question, turn.answer) + "\n\n"])[0].tolist()


def _size(parts: Sequence[tuple[object, list[int]]]) -> int:
    return sum(len(tokens) for _, tokens in parts)
