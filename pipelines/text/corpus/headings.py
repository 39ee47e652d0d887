"""Text to its sections, by headings of Markdown or of wiki text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

_MARKDOWN = re.compile(r"(#{1,6})\s+(.*)")
_FENCE = re.compile(r"\s{0,3}(```|~~~)")
# "= Title =", "== Section ==", and "= = Section = =" as WikiText has it.
_WIKI = re.compile(r"\s*((?:=\s?)+)(?<=[=\s])\s*([^=\s](?:.*?[^=\s])?)\s*((?:\s?=)+)\s*")
_MOST_CHARS = 1 << 22
"""Of a section that is held at once; a longer one goes on in pieces."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A piece of a document below one heading.

    Attributes:
        path: the headings from the document's title on.
        text: its lines, each with its end.
        heading_chars: letters of heading lines that are not in `text`.
        begins: it is the first of another document.
    """

    path: tuple[str, ...]
    text: str
    heading_chars: int = 0
    begins: bool = False


def sections(lines: Iterable[str], kind: str, *, keep: bool) -> Iterator[Section]:
    """Yields the sections of a text; together they hold every letter of it.

    Args:
        lines: each with its end.
        kind: "markdown", "wiki" or "none".
        keep: heading lines stay in the text.
    """
    path: list[tuple[int, str]] = []
    held: list[str] = []
    size, heading_chars, begins, is_fenced = 0, 0, False, False

    def section() -> Section:
        return Section(tuple(name for _, name in path), "".join(held), heading_chars, begins)

    for line in lines:
        if kind == "markdown" and _FENCE.match(line):
            is_fenced = not is_fenced
        found = None if is_fenced else _heading(line, kind)
        # Empty lines before the first heading belong to what it begins.
        is_first = found and not path and not "".join(held).strip()
        if (found or size > _MOST_CHARS) and not is_first:
            if held or heading_chars:
                yield section()
            held, size, heading_chars, begins = [], 0, 0, False
        if found:
            level, name = found
            path = [entry for entry in path if entry[0] < level] + [(level, name)]
            begins = kind == "wiki" and level == 1
            if not keep:
                heading_chars = len(line)
                continue
        held.append(line)
        size += len(line)
    if held or heading_chars:
        yield section()


def _heading(line: str, kind: str) -> tuple[int, str] | None:
    """Returns level and name of a heading; None where a line is none."""
    if kind == "markdown" and line.startswith("#"):
        match = _MARKDOWN.fullmatch(line.rstrip())
        name = match[2].rstrip("#").strip() if match else ""
        return (len(match[1]), name) if match and name else None
    if kind == "wiki" and line.lstrip().startswith("="):
        match = _WIKI.fullmatch(line.rstrip())
        if match and match[1].count("=") == match[3].count("="):
            return match[1].count("="), match[2]
    return None
