"""Where general text comes from: files, the hub, or local text where neither can be had."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from launch.wiring import hub
from minirec import files
from pipelines.text.general_text import GeneralText, read_general
from pipelines.text.row_batches import EncodedRows
from pipelines.text.tokenizer import TextTokenizer


@dataclasses.dataclass(frozen=True)
class Mixed:
    """The general text of a run.

    Attributes:
        source: what it is: "files", "hub", "fallback", or "none" where none is mixed in.
        about: that, what was read and how many records, and why it is not what was asked for.
        text: the text.
    """

    source: str
    about: dict[str, Any]
    text: GeneralText


def general_text(config: ConfigDict) -> Mixed:
    """Returns the general text that `config.general_mix` names, or the next best.

    Raises:
        ValueError: files that are named and cannot be read; a hub that cannot be reached, or
            nothing named at all, without a fallback; or the text that the monitor reads.
    """
    mix = config.general_mix
    why = ""
    if mix.files:
        source, paths = "files", [Path(path).expanduser() for path in mix.files]
    else:
        source, paths = "hub", []
        if mix.hub:
            try:
                paths = hub.texts(mix.hub)
            except ValueError as error:
                why = str(error)
        else:
            why = "config.general_mix.files and .hub are empty"
        if not paths:
            if not mix.fallback:
                raise ValueError(f"config.general_mix: {why}; and .fallback is empty")
            source, paths = "fallback", [Path(mix.fallback).expanduser()]
    _check_apart(config, paths)
    pairs: list[tuple[str, str]] = []
    texts: list[str] = []
    for path in paths:
        left = mix.max_records - len(pairs) - len(texts)
        if left <= 0:
            break
        found = read_general(path, mix.turns.to_dict(), left)
        pairs += found.pairs
        texts += found.texts
    text = GeneralText(tuple(pairs), tuple(texts))
    about = {
        "source": source,
        "files": [path.name for path in paths],
        "records": len(text),
        "sha256": [files.sha256(path) for path in paths],
    }
    return Mixed(source, about | ({"instead_because": why} if why else {}), text)


def _check_apart(config: ConfigDict, paths: list[Path]) -> None:
    """Checks that nothing is trained on that the monitor reads.

    Raises:
        ValueError: a file is the monitor's.
    """
    watched = Path(config.monitor.path).expanduser() if config.monitor.path else None
    if watched is None or not watched.is_file():
        return
    digest = files.sha256(watched)
    for path in paths:
        if path.is_file() and files.sha256(path) == digest:
            raise ValueError(
                f"config.general_mix: {path} is what the monitor reads (config.monitor.path="
                f"{config.monitor.path!r}): what is measured must not be trained on"
            )


def encoded(
    mixed: GeneralText, tokenizer: TextTokenizer, window: int, row_tokens: int | None
) -> EncodedRows:
    """Returns general text as rows: instructions as they are, plain text in windows.

    Args:
        mixed: the text.
        tokenizer: makes tokens.
        window: tokens of a row of plain text.
        row_tokens: the most that a row may take.
    """
    parts = []
    if mixed.pairs:
        prompts, answers = zip(*mixed.pairs, strict=True)
        parts.append(EncodedRows.of_texts(prompts, answers, tokenizer, row_tokens))
    if mixed.texts:
        tokens, _ = tokenizer.encode_flat(list(mixed.texts))
        parts.append(EncodedRows.of_stream(tokens, tokenizer.eos_token_id, window))
    shift = np.cumsum([0, *(len(part.tokens) for part in parts)])
    return EncodedRows(
        np.concatenate([np.zeros(0, np.int32), *(part.tokens for part in parts)]),
        np.concatenate(
            [np.zeros((0, 2), np.int64)]
            + [part.start + at for part, at in zip(parts, shift, strict=False)]
        ),
        np.concatenate([np.zeros((0, 2), np.int32), *(part.length for part in parts)]),
        sum(part.left_out for part in parts),
    )
