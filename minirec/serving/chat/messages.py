"""What clients of a chat say and hear, in the shape of OpenAI's chat completions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from minirec.decoding.draw import LEAST_TEMPERATURE, LEAST_TOP_P
from minirec.serving.chat.chat import Drawing, Reply
from minirec.serving.chat.prompt import Turn
from minirec.serving.refusals import BadRequestError

_MOST_TOKENS = 4096
_MOST_MESSAGES = 200


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True):
    """One thing that was said.

    Attributes:
        role: "user" or "assistant".
        content: what was said.
    """

    role: Literal["user", "assistant"]
    content: str


class ChatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A question, after what was said before it.

    Attributes:
        messages: questions and answers in turn; the last is the question.
        model: must be the one that is served, where it is given.
        stream: answer by server-sent events, as it is written.
        max_tokens: tokens of the answer at most.
        temperature: of the draw; 0 takes the likeliest token.
        top_p: share of the probability that is drawn from.
        seed: of the draw.
    """

    messages: list[ChatMessage]
    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def drawing(self) -> Drawing:
        """Returns how the answer is to be drawn.

        Raises:
            BadRequestError: a value that cannot be.
        """
        checks: tuple[tuple[str, Any, bool, str], ...] = (
            ("max_tokens", self.max_tokens, _within(self.max_tokens, 1, _MOST_TOKENS), "1 to 4096"),
            (
                "temperature",
                self.temperature,
                self.temperature == 0 or _within(self.temperature, LEAST_TEMPERATURE, 100),
                f"0, or {LEAST_TEMPERATURE} to 100",
            ),
            ("top_p", self.top_p, _within(self.top_p, LEAST_TOP_P, 1), f"{LEAST_TOP_P} to 1"),
            ("seed", self.seed, _within(self.seed, 0, 2**31 - 1), "0 to 2^31 - 1"),
        )
        for field, value, right, what in checks:
            if value is not None and not right:
                raise BadRequestError(field, f"{value!r}; must be {what}")
        return Drawing(self.max_tokens, self.temperature, self.top_p, self.seed)

    def question(self) -> tuple[str, list[Turn]]:
        """Returns the question and the turns before it.

        Raises:
            BadRequestError: the messages are no questions and answers in turn.
        """
        if not 1 <= len(self.messages) <= _MOST_MESSAGES:
            raise BadRequestError("messages", f"{len(self.messages)} of them; must be 1 to 200")
        for place, message in enumerate(self.messages):
            right = "user" if place % 2 == 0 else "assistant"
            if message.role != right:
                raise BadRequestError(
                    f"messages[{place}].role",
                    f"{message.role!r}; must be {right!r}: they take turns",
                )
        *before, last = self.messages
        if last.role != "user" or not last.content.strip():
            raise BadRequestError(
                f"messages[{len(before)}]", "the last must be a question of the user"
            )
        pairs = zip(before[::2], before[1::2], strict=True)
        return last.content, [
            Turn(asked.content, without_sources(said.content)) for asked, said in pairs
        ]


def without_sources(text: str) -> str:
    """Returns an answer without the sources that it ends with: a client sends it back whole."""
    return text.partition("\n\nSources:\n")[0]


def completion(reply: Reply, name: str, request_id: str, created: int) -> dict[str, Any]:
    """Returns a whole answer."""
    read, written = reply.tokens
    return {
        "id": request_id,
        "object": "chat.completion",
        "created": created,
        "model": name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": reply.full_text},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        },
        "minirec": about(reply),
    }


def chunk(
    text: str | None, name: str, request_id: str, created: int, reply: Reply | None = None
) -> dict[str, Any]:
    """Returns a piece of an answer; with `reply` the last one."""
    delta = {} if text is None else {"role": "assistant", "content": text}
    made: dict[str, Any] = {
        "id": request_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": name,
        "choices": [
            {"index": 0, "delta": delta, "finish_reason": None if reply is None else "stop"}
        ],
    }
    return made if reply is None else made | {"minirec": about(reply)}


def about(reply: Reply) -> dict[str, Any]:
    """Returns what a reply is beside its text: its kind, its sources, what no passage holds."""
    sources: Sequence[dict[str, Any]] = [
        {
            "number": number,
            "heading": passage.heading,
            "url": passage.source_url,
            "text": passage.text,
        }
        for number, passage in enumerate(reply.sources, start=1)
    ]
    return {"kind": reply.kind, "sources": sources, "missing": list(reply.verdict.missing)}


def _within(value: float | None, low: float, high: float) -> bool:
    return value is None or (math.isfinite(value) and low <= value <= high)
