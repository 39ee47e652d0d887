"""Reads JSON lines: an object a row."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.bad_rows import BadRows
from pipelines.readers.reader import shown
from pipelines.readers.streams import DamagedFileError, line_blocks
from pipelines.readers.values import column_of, is_plain


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """A JSON object a line, UTF-8.

    Attributes:
        lists: whether a value may be a list or the like; it comes as its JSON text then.
        block_bytes: bytes that are read at one time.
    """

    lists: bool = False
    block_bytes: int = 1 << 24

    def frames(
        self, path: Path, columns: Sequence[str], bad_rows: BadRows
    ) -> Iterator[pl.DataFrame]:
        """Yields the rows; see `Reader.frames`. A key that an object lacks is null.

        Raises:
            ValueError: a key that no object of the file has, a file that is empty or cut off, or
                a line that is no object.
        """
        num_rows, seen, first_keys = 0, set(), None
        try:
            for block in line_blocks(path, self.block_bytes):
                lines: list[int] = []
                rows: list[list[Any]] = []
                for number, line in enumerate(block.data.split(b"\n")[:-1], start=block.line):
                    value = _object(line)
                    if isinstance(value, str):
                        reason = "not_in_encoding" if value.startswith("not UTF") else None
                        bad_rows.add(
                            reason or "row_does_not_parse", f"{path}, line {number}: {value}"
                        )
                        continue
                    first_keys = first_keys or list(value)
                    row = [value.get(column) for column in columns]
                    seen.update(column for column in columns if column in value)
                    if not all(map(is_plain, row)):
                        if not self.lists:
                            wrong = next(entry for entry in row if not is_plain(entry))
                            bad_rows.add(
                                "row_does_not_parse",
                                f"{path}, line {number}: column {columns[row.index(wrong)]!r} is "
                                f"{shown(wrong)}; it must be text or a number",
                            )
                            continue
                        row = [_plain(entry) for entry in row]
                    lines.append(number)
                    rows.append(row)
                if rows:
                    num_rows += len(rows)
                    series = [
                        column_of(name, values)
                        for name, values in zip(columns, zip(*rows, strict=True), strict=True)
                    ]
                    yield pl.DataFrame([*series, pl.Series("line", lines, dtype=pl.Int64)])
        except DamagedFileError as error:
            bad_rows.add("truncated_file", str(error))
        if not num_rows and not bad_rows.counts:
            raise ValueError(f"{path}: the file is empty")
        for column in columns:
            if num_rows and column not in seen:
                raise ValueError(
                    f"{path}: there is no column {column!r}: no object has this key; the first has "
                    f"{', '.join(map(repr, first_keys or ()))}"
                )


def _object(line: bytes) -> dict[str, Any] | str:
    """Returns the object that a line spells, or what is wrong with it."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start + 1} of the line"
    if not text.strip():
        return "an empty row"
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            twice.append(next(key for key in keys if keys.count(key) > 1))
        return value

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}: {shown(text)}"
    if not isinstance(value, dict):
        return f"holds no object: {shown(text)}"
    if twice:
        return f"key {twice[0]!r} is there more than once: {shown(text)}"
    return value


def _plain(value: Any) -> Any:
    return value if is_plain(value) else json.dumps(value, ensure_ascii=False)
