"""BM25 over passages, by bm25s: title and sections count as if they were said so often."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Int64

from minirec import files
from minirec.files.schema import require_whole
from minirec.recommend.passages.passage import Passage
from minirec.recommend.passages.store import OFFSETS, TEXTS, PassageStore, write_passages
from minirec.recommend.passages.words import stems

_RECORD = "index.json"
_BM25 = "bm25"
_REMEDY = "remove the folder: it is built again"


@dataclasses.dataclass(frozen=True)
class Bm25Settings:
    """How passages are weighed.

    Attributes:
        title_weight: how often the words of the document's title count; 0: not at all.
        section_weight: how often those of the other headings do.
        k1: how much a word counts that occurs more often.
        b: how much long passages are held back.
    """

    title_weight: int = 2
    section_weight: int = 1
    k1: float = 1.5
    b: float = 0.75

    def __post_init__(self):
        for name in ("title_weight", "section_weight"):
            require_whole(f"config.retrieval.{name}", getattr(self, name), least=0)
        if not self.k1 > 0:
            raise ValueError(f"config.retrieval.k1={self.k1!r}: must be above 0")
        if not 0.0 <= self.b <= 1.0:
            raise ValueError(f"config.retrieval.b={self.b!r}: must lie in [0, 1]")

    def terms(self, passage: Passage) -> list[str]:
        """Returns what a passage is found by."""
        title, *sections = passage.section_path or ("",)
        return [
            *stems(passage.text),
            *stems(title) * self.title_weight,
            *stems(" ".join(sections)) * self.section_weight,
        ]


class Bm25Index:
    """Passages of a folder, and what finds them; memory-mapped.

    Attributes:
        passages: by their number.
        made_with: what the index was made with, as JSON.
    """

    def __init__(self, index: Any, passages: PassageStore, made_with: dict[str, Any]):
        """See `build` and `load`."""
        self._index = index
        self.passages = passages
        self.made_with = made_with

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike[str],
        passages: Iterable[Passage],
        settings: Bm25Settings,
        made_with: Mapping[str, Any],
    ) -> Self:
        """Writes an index into a folder, whole or not at all, and opens it.

        Args:
            folder: where; what lies there is replaced.
            passages: in the order of their numbers.
            settings: how they are weighed.
            made_with: what to keep beside it, as JSON.

        Raises:
            ValueError: `bm25s` is not installed, or there are no passages.
        """
        library = require_bm25s()
        with files.atomic_folder(Path(folder)) as new:
            numbers: dict[str, int] = {}
            documents = []
            for passage in write_passages(new, passages):
                terms = settings.terms(passage)
                ids = [numbers.setdefault(term, len(numbers)) for term in terms]
                documents.append(np.array(ids, np.int32))
            if not numbers:
                raise ValueError("no passage has a word to be found by")
            index = library.BM25(k1=settings.k1, b=settings.b, backend="numpy")
            index.index((documents, numbers), show_progress=False)
            index.save(new / _BM25, show_progress=False)
            names = [TEXTS, OFFSETS]
            names += sorted(f"{_BM25}/{path.name}" for path in (new / _BM25).iterdir())
            record = {"made_with": dict(made_with), "files": files.checksums(new, names)}
            files.write_sealed(new / _RECORD, record)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Opens an index.

        Raises:
            ValueError: there is none, it is damaged, or `bm25s` is not installed.
        """
        folder = Path(folder)
        library = require_bm25s()
        if not (folder / _RECORD).is_file():
            raise ValueError(f"{folder / _RECORD} is missing: there is no index")
        record = files.read_sealed(folder / _RECORD, _REMEDY, {"made_with": dict, "files": dict})
        files.check_files(folder, record["files"], remedy=_REMEDY)
        index = library.BM25.load(folder / _BM25, mmap=True, show_progress=False)
        return cls(index, PassageStore(folder), record["made_with"])

    def __len__(self) -> int:
        """The number of passages."""
        return len(self.passages)

    def scores(self, question: str) -> Float32[np.ndarray, " n"]:
        """Returns the score of each passage for a question; 0 where they share no word."""
        known = self._index.vocab_dict
        ids = [known[term] for term in dict.fromkeys(stems(question)) if term in known]
        if not ids:
            return np.zeros(len(self), np.float32)
        return np.asarray(self._index.get_scores_from_ids(ids), np.float32)

    def search(self, question: str, k: int) -> Int64[np.ndarray, " k_or_fewer"]:
        """Returns the numbers of the best passages, best first; ties to the lower number.

        There are fewer than `k` where fewer share a word with the question.
        """
        return best(self.scores(question), k)


def best(scores: Float32[np.ndarray, " n"], k: int) -> Int64[np.ndarray, " k_or_fewer"]:
    """Returns where the highest scores above 0 stand, best first; ties to the lower place."""
    places = np.flatnonzero(scores > 0)
    if len(places) > k:
        least = np.partition(scores[places], -k)[-k]
        places = places[scores[places] >= least]
    return places[np.argsort(-scores[places], kind="stable")][:k]


def require_bm25s() -> Any:
    """Returns the library `bm25s`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise ValueError(
            "passages are found by the Python package bm25s: pip install 'minirec[text]'"
        ) from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # It tells each index's story.
    return bm25s
