"""Settings of a corpus, and their checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

HEADINGS = ("none", "wiki")
LONG = ("cut", "drop")
WHITESPACE = ("normalise", "keep")
BAD_ROWS = ("error", "skip")


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Which documents become which passages.

    Attributes:
        folder: where the files lie.
        files: paths or patterns from there on.
        eval_files: documents to evaluate on; empty: `eval_ratio` of the others.
        on_bad_rows: a line that is no record is an error, or left out and counted.
        headings: what plain text marks its headings with: "none", or "wiki" for `= Title =`, which
            begins a document, and `== Section ==`. Markdown has its own.
        keep_headings: a passage's text has the lines of headings, too.
        whitespace: "normalise" folds blanks and takes them off the ends; with "keep" a document's
            passages one behind the other are its text, but for what the rules leave out.
        min_chars: letters of a passage at least.
        max_chars: letters of a passage at most.
        long: what becomes of a longer text: it is cut at sentence ends, or dropped.
        max_chunks: passages at most, of training and evaluation; 0: all.
        eval_ratio: share of the documents to evaluate on.
        seed: of the split and of the order.
        shuffle: documents come in an order by lot.
        include_keyword: passages that lack it are left out; "": none is.
        require_keyword: a training passage must hold it; "": none need.
        drop_sections: names of sections that are left out, with all below them.
        drop_phrases: a line with one of them is left out.
        max_upper_share: lines and passages with a larger share of upper case among their letters
            are left out, unless they are short; 1: none.
        near_duplicate: training passages are left out that share so much with an evaluation
            passage, as Jaccard's coefficient of their shingles; 0: none.
    """

    folder: str = ""
    files: tuple[str, ...] = ()
    eval_files: tuple[str, ...] = ()
    on_bad_rows: str = "error"
    headings: str = "none"
    keep_headings: bool = False
    whitespace: str = "normalise"
    min_chars: int = 200
    max_chars: int = 1600
    long: str = "cut"
    max_chunks: int = 200_000
    eval_ratio: float = 0.02
    seed: int = 13
    shuffle: bool = True
    include_keyword: str = ""
    require_keyword: str = ""
    drop_sections: tuple[str, ...] = ()
    drop_phrases: tuple[str, ...] = ()
    max_upper_share: float = 0.5
    near_duplicate: float = 0.7

    def __post_init__(self):
        choices = {
            "headings": HEADINGS,
            "long": LONG,
            "whitespace": WHITESPACE,
            "on_bad_rows": BAD_ROWS,
        }
        for name, known in choices.items():
            self._require(name, getattr(self, name) in known, f"one of {', '.join(known)}")
        self._require("min_chars", self.min_chars >= 0, "0 or more")
        least = max(1, 2 * self.min_chars)
        self._require("max_chars", self.max_chars >= least, f"at least {least}, twice min_chars")
        self._require("max_chunks", self.max_chunks >= 0, "0 (all) or more")
        self._require("eval_ratio", 0.0 < self.eval_ratio < 1.0, "between 0 and 1")
        self._require("seed", 0 <= self.seed < 2**63, "0 or more, below 2^63")
        for name in ("max_upper_share", "near_duplicate"):
            self._require(name, 0.0 <= getattr(self, name) <= 1.0, "from 0 to 1")
        for name in ("files", "eval_files", "drop_sections", "drop_phrases"):
            empty = any(not text.strip() for text in getattr(self, name))
            self._require(name, not empty, "a tuple of texts, none of them empty")

    def _require(self, name: str, right: bool, what: str) -> None:
        if not right:
            raise ValueError(f"config.corpus.{name}={getattr(self, name)!r}: must be {what}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Returns the settings of a config's block.

        Raises:
            ValueError: a field is unknown or has a value that cannot be.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"config.corpus.{unknown[0]}: there is no such field")
        plain = {name: _as_tuple(value) for name, value in values.items()}
        return cls(**plain)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
