"""A run of the family `text` that answers questions: what chat, server and page are wired of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, cast

from launch.wiring.experiment import experiment_of
from launch.wiring.program import Job, UsageError
from launch.wiring.text_corpus import load_tokenizer
from launch.wiring.text_dense import load_retriever
from launch.wiring.text_index import gate_of
from minirec.decoding import Sampler, SamplingSettings
from minirec.serving.chat.chat import Chat, ChatSettings, Drawing
from minirec.serving.chat.prompt import ENDS

_QUOTED_WINDOW = 1 << 20  # tokens that "read" passages which are only quoted


@dataclasses.dataclass(frozen=True)
class SamplerWriter:
    """A sampler as a chat asks it.

    Attributes:
        sampler: writes.
        settings: where a drawing says nothing else.
    """

    sampler: Sampler
    settings: SamplingSettings

    def write(self, prompt: Sequence[int], drawing: Drawing) -> Iterator[int]:
        """Yields tokens behind a prompt; temperature 0 takes the likeliest."""
        asked: dict[str, Any] = {
            name: value for name, value in dataclasses.asdict(drawing).items() if value is not None
        }
        if "temperature" in asked:
            is_greedy = asked["temperature"] == 0
            asked |= {"greedy": is_greedy, "temperature": asked["temperature"] or 1.0}
        settings = dataclasses.replace(self.settings, **asked)
        return self.sampler.stream(list(prompt), settings, settings.seed)


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
        raise UsageError(f"config.chat.{error}") from error


def sampling_of(job: Job) -> SamplingSettings:
    """Returns how the config draws answers.

    Raises:
        ValueError: a field has a value that cannot be.
    """
    asked = job.config.chat
    is_greedy = asked.temperature == 0
    try:
        return SamplingSettings(
            temperature=1.0 if is_greedy else asked.temperature,
            greedy=is_greedy,
            top_p=asked.top_p,
            top_k=asked.top_k,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
            max_new_tokens=asked.max_new_tokens,
            stop=ENDS,
            seed=asked.seed,
        )
    except ValueError as error:
        raise UsageError(f"config.chat: {error}") from error


def make_chat(job: Job) -> Chat:
    """Returns what answers questions of a corpus, with the run's model where the config wants it.

    Raises:
        ValueError: a step before this one has not run, or with another config.
    """
    sampling = sampling_of(job)
    pieces, _ = load_tokenizer(job)
    gate = gate_of(job)
    window, writer, run = _QUOTED_WINDOW, None, None
    if job.config.chat.model:
        run = cast(Any, experiment_of(job.config).load(job))
        window, writer = run.config.loader.row_tokens, SamplerWriter(run.sampler(), sampling)
    return Chat(load_retriever(job, run), gate, pieces, writer, chat_settings(job, window))
