"""Texts of everyday language: instructions with their answers, and plain text, from files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from minirec import files

# What a speaker is called, in the files and here.
_SPEAKERS = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
    "model": "gpt",
    "system": "system",
}
_PAIRS = (("instruction", "output"), ("prompt", "response"))
FORMATS = "conversations, messages, instruction/output, prompt/response or text"


@dataclasses.dataclass(frozen=True)
class GeneralText:
    """Texts to mix in.

    Attributes:
        pairs: (prompt, answer), of instructions.
        texts: plain texts.
    """

    pairs: tuple[tuple[str, str], ...]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pairs) + len(self.texts)


def read_general(path: Path, turns: Mapping[str, str], most: int | None = None) -> GeneralText:
    """Returns the texts of a file: JSON lines, Parquet, or plain text.

    A line holds `conversations` (`from`: human, gpt or system; `value`), `messages` (`role`,
    `content`), `instruction` (and `input`) with `output`, `prompt` with `response`, or `text`. Of a
    conversation the last answer is the answer, and all before it the prompt.

    Args:
        path: the file; `.txt` is plain text, `.parquet` a table, anything else JSON lines.
        turns: by speaker (system, human, gpt), how one's words are written, of `{text}`.
        most: records to read at most.

    Raises:
        ValueError: the file is missing or broken, or a record is none of these; the message names
            file and line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; general text is read from it")
    if path.suffix == ".txt":
        return GeneralText((), (path.read_text(encoding="utf-8"),))
    pairs, texts = [], []
    for number, (where, record) in enumerate(_records(path)):
        if number == most:
            break
        found = _record(record, where, turns)
        if isinstance(found, str):
            texts.append(found)
        else:
            pairs.append(found)
    if not pairs and not texts:
        raise ValueError(f"{path}: holds no records")
    return GeneralText(tuple(pairs), tuple(texts))


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.suffix == ".parquet":
        try:
            frame = pl.read_parquet(path)
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{path}: not a Parquet file: {error}") from error
        for row, record in enumerate(frame.iter_rows(named=True), 1):
            yield f"{path}, row {row}", record
        return
    for line, record in files.read_json_lines(path, dict):
        yield f"{path}, line {line}", record


def _record(
    record: Mapping[str, Any], where: str, turns: Mapping[str, str]
) -> tuple[str, str] | str:
    for field, speaker, said in (
        ("conversations", "from", "value"),
        ("messages", "role", "content"),
    ):
        if record.get(field) is not None:
            return _conversation(record[field], f"{where}: {field}", speaker, said, turns)
    for asked, answered in _PAIRS:
        if record.get(asked) is not None:
            prompt, answer = record[asked], record.get(answered)
            more = record.get("input") if asked == "instruction" else None
            if not isinstance(prompt, str) or not isinstance(answer, str) or not answer:
                raise ValueError(f"{where}: {asked} and {answered} must both be texts")
            whole = f"{prompt}\n{more}" if isinstance(more, str) and more else prompt
            return turns["human"].format(text=whole), turns["gpt"].format(text=answer)
    text = record.get("text")
    if isinstance(text, str) and text:
        return text
    raise ValueError(f"{where}: holds {', '.join(map(str, record))}; expected {FORMATS}")


def _conversation(
    entries: Any, where: str, speaker: str, said: str, turns: Mapping[str, str]
) -> tuple[str, str]:
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{where} is {entries!r:.80}: must be a list of what was said")
    told = []
    for number, entry in enumerate(entries):
        who = _SPEAKERS.get(entry.get(speaker, "")) if isinstance(entry, Mapping) else None
        text = entry.get(said) if isinstance(entry, Mapping) else None
        if who is None or not isinstance(text, str):
            raise ValueError(
                f"{where}[{number}] is {entry!r:.80}: needs {speaker} (one of "
                f"{', '.join(_SPEAKERS)}) and {said}"
            )
        told.append((who, turns[who].format(text=text)))
    while told and told[-1][0] != "gpt":
        told.pop()
    if len(told) < 2:
        raise ValueError(f"{where}: there is no answer behind anything that was asked")
    return "".join(text for _, text in told[:-1]), told[-1][1]
