"""A run of the family `text` that answers questions: what chat, server and page are wired of."""

from __future__ import annotations

from collections.abc import Callable

from launch.wiring.program import Job
from launch.wiring.text_corpus import load_tokenizer
from launch.wiring.text_index import gate_of, load_index
from minirec.recommend.passages.retriever import Embedder, Retriever
from minirec.serving.chat.chat import Chat, ChatSettings, Writer

WindowAndWriter = tuple[int, Writer | None, Embedder | None]


def chat_settings(job: Job, window: int) -> ChatSettings:
    """Returns the checked settings of answers.

    Args:
        job: its config's `chat` and `gate`.
        window: tokens that the model reads.

    Raises:
        ValueError: a field has a value that cannot be.
    """
    chat, gate = job.config.chat, job.config.gate
    try:
        return ChatSettings(
            context_documents=chat.context_documents,
            looked_at=gate.passages,
            history_turns=chat.history_turns,
            max_new_tokens=chat.max_new_tokens,
            window=window,
            support=chat.support,
            refusal=gate.refusal,
        )
    except ValueError as error:
        raise ValueError(f"config.chat.{error}") from error


def make_chat(job: Job, load: Callable[[Job], WindowAndWriter]) -> Chat:
    """Returns what answers questions of a corpus.

    Args:
        job: whose corpus, tokenizer and config.
        load: gives the tokens that the model reads, the model, and what embeds texts, if anything.

    Raises:
        ValueError: a step before this one has not run, or with another config.
    """
    pieces, _ = load_tokenizer(job)
    index = load_index(job)
    window, writer, embedder = load(job)
    asked = job.config.retrieval
    retriever = Retriever(
        index, None, embedder, rank_constant=asked.rank_constant, candidates=asked.candidates
    )
    return Chat(retriever, gate_of(job), pieces, writer, chat_settings(job, window))
