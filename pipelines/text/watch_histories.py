"""How a history reads: its items in their marks, and the prompt that asks for a masked one."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.text.watch_catalogue import WatchCatalogue
from pipelines.text.watch_config import MARKS, WatchConfig


class Histories:
    """Writes histories; rows and evaluations use the same words."""

    def __init__(self, catalogue: WatchCatalogue, config: WatchConfig):
        """Spells every item with every mark, once.

        Args:
            catalogue: the items.
            config: the wording.
        """
        self._words = words = config.said
        self._spelled = [
            [words.entry.format(sid=sid, mark=words.marks[mark]) for sid in catalogue.sids]
            for mark in MARKS
        ]

    def entries(self, items: Sequence[int], marks: Sequence[int]) -> list[str]:
        """Returns each item in its marks.

        Args:
            items: rows of the catalogue.
            marks: how each went, places in `MARKS`.
        """
        spelled = self._spelled
        return [spelled[mark][item] for item, mark in zip(items, marks, strict=True)]

    def text(self, items: Sequence[int], marks: Sequence[int]) -> str:
        """Returns a history without a masked item."""
        return self._words.between.join(self.entries(items, marks))

    def prompt(self, items: Sequence[int], marks: Sequence[int], hidden: int, mode: str) -> str:
        """Returns the prompt that asks for a masked item.

        Args:
            items: what is shown, rows of the catalogue.
            marks: how each went, places in `MARKS`.
            hidden: how many entries come before the masked one.
            mode: "last" or "random".
        """
        entries = self.entries(items, marks)
        entries.insert(hidden, self._words.hidden)
        template = self._words.mask_last if mode == "last" else self._words.mask_random
        return template.format(history=self._words.between.join(entries))
