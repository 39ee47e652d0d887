"""Passages on disk, read one by one by their number."""

from __future__ import annotations

import dataclasses
import json
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from minirec.files.schema import check
from minirec.recommend.passages.passage import Passage

TEXTS, OFFSETS = "passages.jsonl", "offsets.npy"
_SHAPE = {"text": str, "source_url": str, "section_path": [str]}


def write_passages(folder: Path, passages: Iterable[Passage]) -> Iterator[Passage]:
    """Writes passages into a folder and yields each; where they lie is written at the end."""
    offsets = [0]
    with (folder / TEXTS).open("wb") as file:
        for passage in passages:
            line = json.dumps(dataclasses.asdict(passage), ensure_ascii=False) + "\n"
            offsets.append(offsets[-1] + file.write(line.encode()))
            yield passage
    np.save(folder / OFFSETS, np.array(offsets, np.int64))


class PassageStore:
    """The passages of a folder; memory-mapped."""

    def __init__(self, folder: Path):
        """Opens them.

        Raises:
            ValueError: the files do not belong together.
            OSError: they cannot be read.
        """
        self._path = folder / TEXTS
        self._offsets = np.load(folder / OFFSETS, mmap_mode="r", allow_pickle=False)
        with self._path.open("rb") as file:
            size = self._path.stat().st_size
            if int(self._offsets[-1]) != size:
                raise ValueError(f"{folder / OFFSETS}: is not of {self._path}")
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""

    def __len__(self) -> int:
        """The number of passages."""
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> Passage:
        """Returns a passage.

        Raises:
            IndexError: there is none of this number.
            ValueError: its line has been damaged.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"passage {number}: there are {len(self)}")
        value = json.loads(self._data[self._offsets[number] : self._offsets[number + 1]])
        check(value, _SHAPE, f"{self._path}, line {number + 1}")
        return Passage(value["text"], value["source_url"], tuple(value["section_path"]))
