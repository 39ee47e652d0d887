"""Files to documents: JSON lines as crawlers write them, Markdown, plain text; compressed or not.

Whatever the size, one block of lines (or one record) is in memory at a time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minirec import files
from pipelines.tables.text_file import text_blocks
from pipelines.text.corpus.config import CorpusConfig
from pipelines.text.corpus.headings import Section, sections

_COMPRESSED = (".gz", ".zst")
_RECORDS = (".jsonl", ".ndjson", ".json")
_MARKDOWN = (".md", ".markdown")
_URLS = ("url", "source_url")
SHAPES = "a text, a body_text, or chunks: [{text, section_path: [{title}]}]"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A section, and the document that it is of.

    Attributes:
        source_url: what the document is called.
        section: its text.
        title: the document's; a section of that name is none.
    """

    source_url: str
    section: Section
    title: str


class BadRowError(ValueError):
    """A line holds no record; the message names file, line and what is wrong."""


def input_files(folder: str, patterns: tuple[str, ...], field: str) -> list[Path]:
    """Returns the files that patterns name, in their order, each once.

    Raises:
        ValueError: no pattern, or one that names no file.
    """
    if not patterns:
        raise ValueError(f"config.corpus.{field}=(): name the documents' files")
    found: dict[Path, None] = {}
    root = Path(folder).expanduser()
    for pattern in patterns:
        # A name may hold what means something in a pattern; a pattern may be an absolute path.
        path = root / pattern
        if path.is_file():
            matches = [path]
        else:
            start = Path(path.anchor) if Path(pattern).is_absolute() else root
            relative = path.relative_to(start).as_posix()
            matches = sorted(match for match in start.glob(relative) if match.is_file())
        if not matches:
            raise ValueError(
                f"config.corpus.{field}: {pattern!r} names no file in {root.resolve()} "
                "(config.corpus.folder)"
            )
        found |= dict.fromkeys(matches)
    for path in found:
        files.check_fetched(path)
    return list(found)


def read_pieces(path: Path, name: str, config: CorpusConfig) -> Iterator[Piece | BadRowError]:
    """Yields the sections of all documents of a file, and what is wrong with each bad line.

    Args:
        path: the file; what its name ends in says what it holds.
        name: what to call it: documents without an address are called so.
        config: says what headings look like.

    Raises:
        ValueError: the file is damaged, or no text.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _COMPRESSED]
    suffix = suffixes[-1] if suffixes else ""
    if suffix in _RECORDS:
        yield from _records(path, name, config)
    else:
        kind = "markdown" if suffix in _MARKDOWN else config.headings
        yield from _text(path, name, kind, keep=config.keep_headings)


def _text(path: Path, name: str, kind: str, *, keep: bool) -> Iterator[Piece]:
    document, title, number = name, Path(name).name.partition(".")[0], 0
    for section in sections(_lines(path), kind, keep=keep):
        if section.begins:
            # Two documents of a file may be called the same.
            document, title = f"{name}#{number}:{section.path[0]}", section.path[0]
            number += 1
        elif kind == "markdown" and len(section.path) == 1:
            title = section.path[0]
        path_there = section.path or (title,)
        yield Piece(document, dataclasses.replace(section, path=path_there), title)


def _lines(path: Path) -> Iterator[str]:
    for block in text_blocks(str(path)):
        if block.truncated:
            raise ValueError(f"{path}: the compressed file ends in the middle: get it anew")
        try:
            text = block.data.decode()
        except UnicodeDecodeError as error:
            line = block.first_line + block.data[: error.start].count(b"\n")
            raise ValueError(f"{path}, line {line}: is not UTF-8: {error.reason}") from error
        yield from text.splitlines(keepends=True)


def _records(path: Path, name: str, config: CorpusConfig) -> Iterator[Piece | BadRowError]:
    for block in text_blocks(str(path)):
        if block.truncated:
            raise ValueError(f"{path}: the compressed file ends in the middle: get it anew")
        for line, raw in enumerate(block.data.split(b"\n")[:-1], start=block.first_line):
            if not raw or raw.isspace():
                continue
            try:
                pieces = list(_pieces(raw, f"{name}#{line}", config))
            except (ValueError, RecursionError) as error:
                yield BadRowError(f"{path}, line {line}: {error}")
                continue
            yield from pieces


def _pieces(raw: bytes, name: str, config: CorpusConfig) -> Iterator[Piece]:
    """The sections of a record."""
    record = json.loads(raw.decode())
    if not isinstance(record, dict):
        raise ValueError(f"is a {type(record).__name__}, and must be an object with {SHAPES}")
    document = _url(record) or name
    title = _checked(record.get("title") or "", "title")
    if "chunks" in record:
        chunks = _of_type(record["chunks"], list, "chunks")
        for number, chunk in enumerate(chunks):
            where = f"chunks[{number}]"
            chunk = _of_type(chunk, dict, where)
            if "text" not in chunk:
                raise ValueError(f"{where}.text is missing")
            path = _path(chunk.get("section_path") or [], f"{where}.section_path")
            title = title or (path[0] if path else "")
            if title and path[:1] != (title,):
                path = (title, *path)
            yield Piece(document, Section(path, _checked(chunk["text"], f"{where}.text")), title)
        return
    for field in ("text", "body_text"):
        if field in record:
            text = _checked(record[field], field)
            break
    else:
        raise ValueError(f"has the fields {', '.join(map(repr, record))}; it needs {SHAPES}")
    lines = text.splitlines(keepends=True)
    for section in sections(lines, config.headings, keep=config.keep_headings):
        path = section.path
        title = title or (path[0] if path else "")
        if title and path[:1] != (title,):
            path = (title, *path)
        yield Piece(document, dataclasses.replace(section, path=path), title)


def _url(record: dict[str, Any]) -> str:
    places = [record]
    if isinstance(record.get("metadata"), dict):
        places.append(record["metadata"])
    for place in places:
        for field in _URLS:
            if place.get(field):
                return _checked(place[field], field)
    return ""


def _path(value: Any, where: str) -> tuple[str, ...]:
    names = []
    for entry in _of_type(value, list, where):
        name = entry.get("title") if isinstance(entry, dict) else entry
        names.append(_checked(name, f"{where}.title"))
    return tuple(name for name in names if name)


def _checked(value: Any, where: str) -> str:
    text = _of_type(value, str, where)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds half of a surrogate pair, which is no letter") from error
    return text


def _of_type(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        said = {str: "a text", list: "a list", dict: "an object"}[kind]
        raise ValueError(f"{where} is {str(value)[:40]!r}; it must be {said}")
    return value
