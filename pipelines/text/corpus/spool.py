"""Passages in the order they are read, on disk, and where each lies: as many as the disk holds."""

from __future__ import annotations

import array
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int64, UInt64

from pipelines.text.passages import Passage

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Spooled:
    """What is known of the spooled passages without reading them.

    Attributes:
        document: a number of each one's document, drawn by lot.
        offset: where each begins in the file, and its end.
        chars: letters of each one's text.
        text: a hash of each one's text; 0 where that is blank.
        is_eval: whether its document was given to evaluate on.
    """

    document: UInt64[np.ndarray, " n"]
    offset: Int64[np.ndarray, " n_and_one"]
    chars: Int64[np.ndarray, " n"]
    text: UInt64[np.ndarray, " n"]
    is_eval: np.ndarray


class Spool:
    """A file that passages are added to, and then read from in any order."""

    def __init__(self, path: Path, seed: int):
        """Makes the file.

        Args:
            path: where; removed at the end.
            seed: of the documents' numbers.
        """
        self._path = path
        self._file = path.open("w+b")
        self._key = seed.to_bytes(8, "little")
        self._document = array.array("Q")
        self._offset = array.array("q", [0])
        self._chars = array.array("q")
        self._text = array.array("Q")
        self._is_eval = array.array("b")

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def number(self, text: str) -> int:
        """Returns the number of a document's name or of a text, of 64 bits, as if drawn by lot."""
        digest = hashlib.blake2b(text.encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little")

    def add(self, passage: Passage, *, is_eval: bool) -> None:
        """Adds a passage."""
        size = self._file.write(passage.as_line().encode())
        self._document.append(self.number(passage.source_url))
        self._offset.append(self._offset[-1] + size)
        self._chars.append(len(passage.text))
        self._text.append(self.number(passage.text) if passage.text.strip() else 0)
        self._is_eval.append(is_eval)

    def known(self) -> Spooled:
        """Returns what is known of them."""
        return Spooled(
            np.frombuffer(self._document, np.uint64),
            np.frombuffer(self._offset, np.int64),
            np.frombuffer(self._chars, np.int64),
            np.frombuffer(self._text, np.uint64),
            np.frombuffer(self._is_eval, np.bool_),
        )

    def read(self, places: Int64[np.ndarray, " m"]) -> Iterator[Passage]:
        """Yields passages by their places."""
        self._file.flush()
        if not len(places):
            return
        # Not mapped: what is read of a large file would count as this program's memory.
        for place in places.tolist():
            self._file.seek(self._offset[place])
            value = json.loads(self._file.read(self._offset[place + 1] - self._offset[place]))
            yield Passage(**value | {"section_path": tuple(value["section_path"])})


def draw(document: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Returns numbers of documents that are drawn by another lot than their own."""
    mixed = document ^ (document >> np.uint64(31))
    mixed = mixed * _GOLDEN
    return mixed ^ (mixed >> np.uint64(29))
