"""One version of the catalogue, and which of its items are in stock."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32

from kernels.trie import Trie
from minirec.serving.rules import Columns
from minirec.serving.titles import TitleIndex
from minirec.sids import SidTable, sid_string


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
    """The items of one version. Those that came after training stand behind the others.

    Attributes:
        number: of the version, from 1.
        raw_item_ids: what the log calls each item.
        titles: what people call it.
        codes: `[N, L]`, its SID; of items that are not `listed`, what it was.
        item_tokens: `[items, L]`, the SID in the model's tokens, padded to the trie's items.
        listed: `[N]`, whether the version holds the item at all.
        trie: of the items that are listed.
        columns: what is known of the items beside.
    """

    number: int
    raw_item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    codes: Int32[np.ndarray, "N L"]
    item_tokens: Int32[np.ndarray, "items L"]
    listed: Bool[np.ndarray, " N"]
    trie: Trie
    columns: Columns
    _index_lock: threading.Lock = dataclasses.field(
        default_factory=threading.Lock, init=False, repr=False
    )

    @property
    def num_items(self) -> int:
        """N, items that have a number: those that are not listed too."""
        return len(self.raw_item_ids)

    @functools.cached_property
    def _sids(self) -> dict[int, str]:
        return {}

    def sid(self, item: int) -> str:
        """Returns an item's SID as people write it."""
        found = self._sids.get(item)
        if found is None:
            found = self._sids[item] = sid_string(self.codes[item])
        return found

    @functools.cached_property
    def spelling(self) -> dict[tuple[int, int], str]:
        """How each token is written, by its place in a SID; filled by who needs it."""
        return {}

    @functools.cached_property
    def _index(self) -> TitleIndex:
        return TitleIndex(self.titles, self.raw_item_ids)

    @property
    def index(self) -> TitleIndex:
        """Finds items by their titles; made once, for the first who asks, whoever else does."""
        with self._index_lock:
            return self._index

    @functools.cached_property
    def item_of(self) -> Mapping[str, int]:
        """The number of each item by its raw id."""
        return {raw: item for item, raw in enumerate(self.raw_item_ids)}


@dataclasses.dataclass(frozen=True)
class Known:
    """What rules find of an item that came after the records' items.

    Attributes:
        attributes: written `name=value`.
        columns: texts and finite numbers by the names of columns that the records carry.
    """

    attributes: Sequence[str] = ()
    columns: Mapping[str, str | float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The items of a version of the catalogue, before a search can read them.

    Attributes:
        table: every item that has a number: the records', then those that came later.
        titles: what people call them.
        listed: which of them the version holds.
        later: what is known of each item that came after the records'.
    """

    table: SidTable
    titles: tuple[str, ...]
    listed: Bool[np.ndarray, " N"]
    later: tuple[Known, ...] = ()


class Stock:
    """Which items can be sold now: changed a thousand times a second, read once a tile."""

    def __init__(self, in_stock: Bool[np.ndarray, " N"], number: int = 0):
        """Begins.

        Args:
            in_stock: by item id.
            number: changes so far.
        """
        self._lock = threading.Lock()
        self._in_stock = in_stock.copy()
        self._pending: dict[int, bool] = {}
        self._number = number

    @property
    def number(self) -> int:
        """Changes so far."""
        return self._number

    def change(self, items: Sequence[int] | Int[np.ndarray, " n"], in_stock: bool) -> int:
        """Puts items in stock or out of it, and returns how many changes there were so far."""
        with self._lock:
            self._pending.update(dict.fromkeys(map(int, items), in_stock))
            self._number += 1
            return self._number

    def change_to(self, number: int, changes: Mapping[int, bool]) -> None:
        """Puts items in stock or out of it, and counts as many changes as others have counted.

        Args:
            number: changes so far.
            changes: whether an item is in stock now, by item id.
        """
        with self._lock:
            self._pending.update(changes)
            self._number = number

    def now(self) -> tuple[Bool[np.ndarray, " N"], int]:
        """Returns (which items are in stock, how many changes there were); the array stays."""
        with self._lock:
            if self._pending:
                items = np.fromiter(self._pending, np.int64)
                changed = self._in_stock.copy()
                changed[items] = list(self._pending.values())
                self._in_stock, self._pending = changed, {}
            return self._in_stock, self._number
