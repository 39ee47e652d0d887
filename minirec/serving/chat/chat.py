"""Answers a question from passages, or says that they do not cover it.

What a model writes is shown sentence by sentence, each once a passage is found to hold its words.
The first that none holds ends the answer; where nothing was shown before it, the passage's own best
sentence is, marked as a quotation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from minirec.recommend.passages.gate import Gate, Verdict
from minirec.recommend.passages.passage import Passage
from minirec.recommend.passages.retriever import Retriever
from minirec.serving.chat.prompt import ENDS, Spelling, Turn, make_prompt
from minirec.serving.chat.support import best_sentence, first_sentence, support

ANSWER, QUOTATION, REFUSAL = "answer", "quotation", "refusal"
_BLANKS = re.compile(r"\s+")
_UNFINISHED = "\ufffd"  # what the bytes of a letter that is not whole become


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How an answer is drawn; None leaves a field to the writer's settings.

    Attributes:
        max_new_tokens: tokens at most.
        temperature: 0 takes the likeliest token.
        top_p: share of probability that is drawn from.
        seed: of the draw.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


class Writer(Protocol):
    """A model that goes on with a text."""

    def write(self, prompt: Sequence[int], drawing: Drawing) -> Iterator[int]:
        """Yields tokens behind a prompt as they are drawn, without the one that ends them."""
        ...


@dataclasses.dataclass(frozen=True)
class ChatSettings:
    """How questions are answered.

    Attributes:
        context_documents: passages that go before a question.
        looked_at: passages that the gate looks at.
        history_turns: earlier turns that go along.
        max_new_tokens: tokens of an answer at most.
        window: tokens that the model reads, the answer's among them.
        support: share of a sentence's content words that a passage must hold for it to be shown.
        refusal: what is said of what no passage covers.
    """

    context_documents: int = 2
    looked_at: int = 10
    history_turns: int = 2
    max_new_tokens: int = 160
    window: int = 512
    support: float = 0.6
    refusal: str = "I don't know."

    def __post_init__(self):
        for name, least in (
            *(("context_documents", 1), ("looked_at", 1), ("history_turns", 0)),
            ("max_new_tokens", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be at least {least}")
        if not 0.0 <= self.support <= 1.0:
            raise ValueError(f"support={self.support!r}: must lie in [0, 1]")
        if self.window <= self.max_new_tokens:
            raise ValueError(
                f"max_new_tokens={self.max_new_tokens}: must leave room for the question in the "
                f"{self.window} tokens that the model reads"
            )


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer, whole.

    Attributes:
        text: what was shown, without its sources.
        kind: `ANSWER`, `QUOTATION` or `REFUSAL`.
        sources: the passages that the model read, or that were looked at for a quotation; empty for
            a refusal.
        verdict: what the gate said.
        tokens: how many the prompt has, and how many the model wrote.
    """

    text: str
    kind: str
    sources: tuple[Passage, ...]
    verdict: Verdict
    tokens: tuple[int, int] = (0, 0)

    @property
    def sources_text(self) -> str:
        """The sources, a line each; "" where there are none."""
        lines = [
            f"[{number}] {passage.heading} ({passage.source_url})"
            for number, passage in enumerate(self.sources, start=1)
        ]
        return "\n".join(("Sources:", *lines)) if lines else ""

    @property
    def full_text(self) -> str:
        """The text with its sources."""
        return "\n\n".join(filter(None, (self.text, self.sources_text)))


@dataclasses.dataclass(frozen=True)
class Chat:
    """Answers questions; holds nothing of whom it has answered.

    Attributes:
        retriever: finds passages.
        gate: says whether they cover a question.
        spelling: the model's tokenizer.
        writer: the model; None quotes in any case.
        settings: how questions are answered.
    """

    retriever: Retriever
    gate: Gate
    spelling: Spelling
    writer: Writer | None
    settings: ChatSettings

    def answer(
        self, question: str, turns: Sequence[Turn] = (), drawing: Drawing | None = None
    ) -> Iterator[str | Reply]:
        """Yields an answer's text as it grows, and then the whole reply.

        Args:
            question: what is asked.
            turns: earlier questions with their answers, oldest first.
            drawing: how to draw.

        Raises:
            ValueError: the question is empty, or longer than what the model reads.
        """
        drawing = drawing or Drawing()
        question = _BLANKS.sub(" ", question).strip()
        if not question:
            raise ValueError("the question is empty")
        found = self._found(question)
        verdict = self.gate.judge(question, found)
        if not verdict.covered or verdict.passage is None:
            text = self._refusal(verdict)
            yield text
            yield Reply(text, REFUSAL, (), verdict)
            return
        # The one that covers it first.
        order = [verdict.passage, *(n for n in range(len(found)) if n != verdict.passage)]
        passages = [found[place] for place in order[: self.settings.context_documents]]
        turns = turns[-self.settings.history_turns :] if self.settings.history_turns else ()
        # Whoever asks for more gets as much as the config has: the prompt's room is not theirs.
        most = min(
            drawing.max_new_tokens or self.settings.max_new_tokens,
            self.settings.max_new_tokens,
            self.settings.window - 1,
        )
        prompt = make_prompt(self.spelling, question, passages, turns, self.settings.window - most)
        sources = prompt.passages or tuple(passages[:1])
        shown, written = "", _Written(self.spelling)
        if self.writer is not None:
            asked = dataclasses.replace(drawing, max_new_tokens=most)
            for sentence in written.sentences(self.writer.write(prompt.tokens, asked)):
                if support(sentence, sources, self.gate.content_words) < self.settings.support:
                    break
                text = sentence.strip() if not shown else f" {sentence.strip()}"
                shown += text
                yield text
        counts = (len(prompt.tokens), written.count)
        if shown:
            yield Reply(shown, ANSWER, sources, verdict, counts)
            return
        # A quotation needs no room in the window.
        quoted, place = best_sentence(question, passages, self.gate.content_words)
        text = f"Quotation [{place + 1}]: “{quoted}”"
        yield text
        yield Reply(text, QUOTATION, tuple(passages), verdict, counts)

    def reply(
        self, question: str, turns: Sequence[Turn] = (), drawing: Drawing | None = None
    ) -> Reply:
        """Returns the whole reply; see `answer`."""
        *_, reply = self.answer(question, turns, drawing)
        assert isinstance(reply, Reply)
        return reply

    def _found(self, question: str) -> list[Passage]:
        looked_at = max(self.settings.looked_at, self.settings.context_documents)
        numbers = self.retriever.search(question, looked_at).tolist()
        return [self.retriever.bm25.passages[number] for number in numbers]

    def _refusal(self, verdict: Verdict) -> str:
        if not verdict.words:
            return f"{self.settings.refusal} (The question has no word that says what it is about.)"
        missing = ", ".join(verdict.missing)
        return (
            f"{self.settings.refusal} (No passage holds: {missing})"
            if missing
            else (self.settings.refusal)
        )


class _Written:
    """A model's tokens as sentences.

    Attributes:
        count: tokens so far.
    """

    def __init__(self, spelling: Spelling):
        self._spelling = spelling
        self.count = 0

    def sentences(self, tokens: Iterator[int]) -> Iterator[str]:
        """Yields each sentence once it is whole, up to what ends an answer."""
        ids: list[int] = []
        done, text = 0, ""
        for token in tokens:
            if token == self._spelling.eos_id:
                break
            ids.append(token)
            self.count = len(ids)
            text = self._spelling.decode(ids)
            if text.endswith(_UNFINISHED):
                continue
            end = _end(text)
            while sentence := first_sentence(text[done : len(text) if end < 0 else end]):
                done += len(sentence)
                if sentence.strip():
                    yield sentence
            if end >= 0:
                break
        end = _end(text)
        rest = text[done:] if end < 0 else text[done:end]
        if rest.strip():
            yield rest


def _end(text: str) -> int:
    """Returns where an answer ends in a text; -1 where it does not."""
    return min((place for mark in ENDS if (place := text.find(mark)) >= 0), default=-1)
