"""Chat over a corpus: `python -m launch.chat --config=text_quickstart --workdir=W`.

Answers from what was read, with sources, and says "I don't know" of what no passage covers. A line
is a question; `/sources` lists the passages of the last answer, `/context` shows them as they were
read, `/reset` forgets what was said, `/quit` (or the end of input) ends. `--prompt="…"` answers one
question and ends.

`--port=8000` serves the same as a page and as `/v1/chat` instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from absl import flags

from launch.wiring import program
from launch.wiring.compiled import keep_programs
from launch.wiring.text_chat import make_chat
from launch.wiring.text_corpus import require_text
from minirec import files
from minirec.serving.chat.chat import REFUSAL, Chat, Reply
from minirec.serving.chat.prompt import Turn

COMMANDS = "/sources /context /reset /quit"
_COMPILED = ".compiled"
_PROMPT = flags.DEFINE_string("prompt", None, "One question; its answer is all that is printed.")
_HTTP_PORT = flags.DEFINE_integer(
    "port", 0, "Serve /v1/chat and a page on this port; 0: chat here.", lower_bound=0
)
_HOST = flags.DEFINE_string("address", "127.0.0.1", "Address that clients come to.")


class Conversation:
    """What was said on one side and on the other.

    Attributes:
        last: the last reply; None before the first.
    """

    def __init__(self, chat: Chat):
        """Begins with nothing said."""
        self._chat = chat
        self._turns: list[Turn] = []
        self.last: Reply | None = None

    def ask(self, question: str) -> None:
        """Prints an answer as it grows, and its sources."""
        for part in self._chat.answer(question, self._turns):
            if isinstance(part, Reply):
                self.last = part
            else:
                print(files.shown(part, lines=True), end="", flush=True)
        print()
        assert self.last is not None
        if self.last.sources:
            print("\n" + files.shown(self.last.sources_text, lines=True))
        if self.last.kind != REFUSAL:
            self._turns.append(Turn(question, self.last.text))

    def command(self, name: str) -> bool:
        """Does what a command says; returns whether the chat goes on.

        Raises:
            ValueError: there is no such command.
        """
        if name == "/quit":
            return False
        if name == "/reset":
            self._turns, self.last = [], None
            print("(nothing was said)")
        elif name == "/sources":
            said = self.last.sources_text if self.last and self.last.sources else "(no sources)"
            print(files.shown(said, lines=True))
        elif name == "/context":
            passages = self.last.sources if self.last else ()
            for number, passage in enumerate(passages, start=1):
                text = f"[{number}] {passage.heading}\n{passage.text}\n"
                print(files.shown(text, lines=True))
            if not passages:
                print("(no context)")
        else:
            raise ValueError(f"{name}: there is no such command; there are {COMMANDS}")
        return True


def converse(chat: Chat, lines: Iterable[str], *, prompt: str = "") -> None:
    """Answers a question a line, until they end or `/quit`; a mistake is told and forgotten."""
    conversation = Conversation(chat)
    for line in lines:
        line = line.strip()
        try:
            if line.startswith("/"):
                if not conversation.command(line):
                    return
            elif line:
                conversation.ask(line)
        except ValueError as error:
            print(files.shown(f"error: {error}"))
        if prompt:
            print(prompt, end="", flush=True)


def main(job: program.Job) -> None:
    """Chats, answers one question, or serves.

    Raises:
        ValueError: a step before this one has not run, or the question cannot be answered at all.
    """
    require_text(job, "launch.chat")
    if _PROMPT.value is not None and _HTTP_PORT.value:
        raise program.UsageError("--prompt and --port: one question, or a server")
    keep_programs(job.workdir / _COMPILED)
    if _HTTP_PORT.value:
        _serve(job)
        return
    chat = make_chat(job)
    if _PROMPT.value is not None:
        Conversation(chat).ask(_PROMPT.value)
        return
    prompt = "> " if sys.stdin.isatty() else ""
    if prompt:
        print(f"{len(chat.retriever.bm25)} passages. {COMMANDS}\n{prompt}", end="", flush=True)
    converse(chat, sys.stdin, prompt=prompt)


def _serve(job: program.Job) -> None:
    try:
        from minirec.serving import server
        from minirec.serving.chat.http import ChatService, chat_application
    except ImportError as error:
        raise program.UsageError(
            f"{error.name} is missing: serving needs pip install 'minirec[serve]'"
        ) from error
    from asyncio import run

    def ready(_: ChatService) -> None:
        line = {"ready": True, "http": f"{_HOST.value}:{_HTTP_PORT.value}"}
        print(json.dumps(line), flush=True)

    addresses = server.Addresses(_HOST.value, _HTTP_PORT.value)
    run(
        server.serve(
            lambda: ChatService(make_chat(job), job.config.name),
            addresses,
            on_ready=ready,
            fronts=server.Fronts(chat_application),
        )
    )


if __name__ == "__main__":
    program.run(main)
