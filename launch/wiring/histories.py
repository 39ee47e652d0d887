"""The histories that a person gives on the command line, and what to do about unknown items."""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from minirec import files
from minirec.files.schema import WHOLE
from pipelines.prepare.alike_ids import alike
from pipelines.prepared import Prepared

_SHOWN = 3
_SUFFIXES = (".json", ".jsonl", ".txt")


def read_histories(text: str) -> list[list[str]]:
    """Returns the histories that `--history` names, each a list of raw item ids.

    Raises:
        ValueError: a file that holds no history, or a line that is not a JSON list of ids, each
            text or a whole number; the message names file and line.
    """
    if not os.path.isfile(text):  # Path.is_file raises where the text is too long for a name
        if text.endswith(_SUFFIXES):
            raise ValueError(f"--history={text}: no such file")
        return [[part.strip() for part in text.split(",") if part.strip()]]
    lines = files.read_json_lines(text, [(str, WHOLE)])
    histories = [[str(raw_item_id) for raw_item_id in line] for _, line in lines]
    if not histories:
        raise ValueError(f"{text}: holds no history; expected a JSON list of item ids a line")
    return histories


class KnownItems:
    """Looks up what the log calls items, and counts what the catalogue lacks.

    Attributes:
        unknown: by id that the catalogue lacks, how often it was looked up.
        num_lists: how many lists held such ids.
    """

    def __init__(self, raw_item_ids: Sequence[str], prepared: Prepared, *, skip: bool) -> None:
        """Looks nothing up yet.

        Args:
            raw_item_ids: of the catalogue.
            prepared: says what became of items that the catalogue lacks.
            skip: leave unknown ids out.
        """
        self._index = {raw: item for item, raw in enumerate(raw_item_ids)}
        self._prepared, self._skip = prepared, skip
        self.unknown: collections.Counter[str] = collections.Counter()
        self.num_lists = 0

    def __call__(self, lists: Mapping[str, Sequence[str]]) -> list[Int32[np.ndarray, " n"]]:
        """Returns the item ids of each list, without those that are unknown.

        Args:
            lists: raw item ids, by what to call the list in an error.

        Raises:
            ValueError: unknown ids, which shall not be left out; the message names the first, and
                counts the others.
        """
        first = ""
        for what, raw in lists.items():
            unknown = [raw_item_id for raw_item_id in raw if raw_item_id not in self._index]
            self.unknown.update(unknown)
            self.num_lists += bool(unknown)
            if unknown and not first:
                first = f"{what}: the catalogue has no item {unknown[0]!r}"
        if first and not self._skip:
            raise ValueError(f"{first}; {self.summary()}; --unknown=skip leaves such ids out")
        return [
            np.array([self._index[name] for name in raw if name in self._index], np.int32)
            for raw in lists.values()
        ]

    def summary(self) -> str:
        """Returns in a line how many ids are unknown, which, and why they may be."""
        found = alike(self.unknown, self._index)
        shown = [
            f"{raw!r}" + (f" (there is {found[raw]!r})" if raw in found else "")
            for raw, _ in self.unknown.most_common(_SHOWN)
        ]
        more = len(self.unknown) - len(shown)
        parts = [
            f"{self.unknown.total()} of the ids given, in {self.num_lists} lists, are unknown: "
            + ", ".join(shown)
            + (f" and {more} more" if more else "")
        ]
        if found:
            parts.append(
                f"{len(found)} of {len(self.unknown)} are known if leading zeros, '.0', capitals "
                "and blanks do not count"
            )
        return "; ".join([*parts, *_left_out(self._prepared.manifest)])


def _left_out(manifest: Mapping[str, Any]) -> list[str]:
    """Returns what is known of items that are in the log and not in the catalogue."""
    read, kept = (manifest["counts"][stage].get("items") for stage in ("read", "prepared"))
    if not isinstance(read, int) or not isinstance(kept, int) or read <= kept:
        return []
    return [
        f"launch.prepare left out {read - kept} of the {read} items that it read "
        f"(config.data.k_core={manifest['config'].get('k_core')}), and does not keep their ids"
    ]
