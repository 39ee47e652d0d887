"""Items found by words of their titles: SQLite's full-text index, in memory."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_MOST_WORDS = 12


class TitleIndex:
    """The titles of a version of the catalogue; safe among threads."""

    def __init__(self, titles: Sequence[str], raw_item_ids: Sequence[str]):
        """Indexes the titles, and the ids as words of them.

        Args:
            titles: of each item.
            raw_item_ids: of each item.
        """
        self._lock = threading.Lock()
        self._rows = sqlite3.connect(":memory:", check_same_thread=False)
        self._rows.execute(
            "create virtual table title using fts5(text, tokenize='unicode61', prefix='2 3')"
        )
        rows = zip(raw_item_ids, titles, strict=True)
        self._rows.executemany(
            "insert into title(rowid, text) values (?, ?)",
            ((item, f"{raw} {title}") for item, (raw, title) in enumerate(rows)),
        )

    def find(self, text: str, num: int) -> list[int]:
        """Returns the items whose titles have all words of a text, the last one perhaps begun.

        The best match first (BM25), of equal ones the lower item.

        Args:
            text: what a person has typed.
            num: items at most.
        """
        words = _WORD.findall(text)[:_MOST_WORDS]
        if not words:
            return []
        quoted = [f'"{word}"' for word in words]
        quoted[-1] += "*"
        with self._lock:
            found = self._rows.execute(
                "select rowid from title where title match ? order by rank, rowid limit ?",
                (" ".join(quoted), num),
            )
            return [row for (row,) in found]

    def close(self) -> None:
        """Gives the memory back."""
        with self._lock:
            self._rows.close()
