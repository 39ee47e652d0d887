"""Lines of Python dictionaries, `{'user_id': u'7', …}`, as Steam's and Amazon's logs of 2014 are.

They look like JSON and are not. A line is parsed and never run: only literals are values.
"""

from __future__ import annotations

import ast
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.tables.object_lines import ObjectLines, from_pairs
from pipelines.tables.table import Kind, Rows

# Python's parser takes some 200 bytes of memory for a character.
_MAX_CHARS = 1 << 20
_CANNOT = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


@dataclasses.dataclass(frozen=True)
class PyLinesTable(ObjectLines):
    """A file of such lines; see `ObjectLines`."""

    reason = "not_python"
    what = "a Python dictionary"

    def parse(self, text: str) -> dict[str, Any] | str:
        """Returns the dictionary in a line, or why the line holds none."""
        if len(text) > _MAX_CHARS:
            return f"it has {len(text)} characters, and may have {_MAX_CHARS}"
        try:
            parsed = ast.parse(text.strip(), mode="eval").body
            if not isinstance(parsed, ast.Dict):
                return f"it is a {type(parsed).__name__}"
            pairs: list[tuple[str, Any]] = []
            for key, value in zip(parsed.keys, parsed.values, strict=True):
                name = None if key is None else ast.literal_eval(key)
                if not isinstance(name, str):
                    return "a key is not text"
                pairs.append((name, ast.literal_eval(value)))
            return from_pairs(pairs)
        except _CANNOT as error:
            said = str(error).partition(" (<unknown>")[0]
            return "it holds more than literals" if "malformed node" in said else said

    def _block(self, data: bytes, first_line: int, columns: Mapping[str, Kind]) -> Iterator[Rows]:
        with warnings.catch_warnings():
            # Text with a backslash that means nothing is as it is.
            warnings.simplefilter("ignore", SyntaxWarning)
            rows = list(super()._block(data, first_line, columns))
        yield from rows
