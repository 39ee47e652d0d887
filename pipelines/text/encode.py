"""Prompts as token ids: rendered, encoded in batches, shortened where they are too long."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from pipelines.text.prompts import BLOCKS, Template
from pipelines.text.tokenizer import TextTokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class ItemLists:
    """A list of items for each prompt, one behind the other.

    Attributes:
        items: int64 [total], oldest first.
        offsets: int64 [n + 1]; list `i` is `items[offsets[i]:offsets[i + 1]]`.
    """

    items: Int[np.ndarray, " total"]
    offsets: Int[np.ndarray, " n_and_one"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> Int[np.ndarray, " n"]:
        """Items of each list."""
        return np.diff(self.offsets)

    @property
    def list_of(self) -> Int[np.ndarray, " total"]:
        """Which list each item stands in."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def where(self, kept: Bool[np.ndarray, " total"]) -> ItemLists:
        """Returns the lists without the items that are not kept; a list may become empty."""
        ends = np.concatenate([[0], np.cumsum(kept)])
        return ItemLists(self.items[kept], ends[self.offsets])

    def newest(self, sizes: Int[np.ndarray, " n"]) -> ItemLists:
        """Returns the newest `sizes` items of each list."""
        place = self.offsets[1:][self.list_of] - np.arange(len(self.items))
        return self.where(place <= sizes[self.list_of])

    def take(self, lists: Int[np.ndarray, " m"]) -> ItemLists:
        """Returns some of the lists."""
        sizes = self.sizes[lists]
        ends = np.cumsum(sizes)
        source = np.arange(ends[-1] if len(ends) else 0)
        source += np.repeat(self.offsets[lists] - (ends - sizes), sizes)
        return ItemLists(self.items[source], np.concatenate([[0], ends]))

    @classmethod
    def of_ranges(
        cls, items: Int[np.ndarray, " E"], start: Int[np.ndarray, " n"], stop: Int[np.ndarray, " n"]
    ) -> ItemLists:
        """Returns the lists `items[start:stop]`."""
        sizes = (stop - start).astype(np.int64)
        ends = np.cumsum(sizes)
        source = np.arange(ends[-1] if len(ends) else 0) + np.repeat(start - (ends - sizes), sizes)
        return cls(np.asarray(items)[source].astype(np.int64), np.concatenate([[0], ends]))


@dataclasses.dataclass(frozen=True, eq=False)
class Spans:
    """Token sequences as runs of one pool, so that what many share is held once.

    Attributes:
        pool: int32 [P].
        start: int64 [n, S]; sequence `i` is its S runs, one behind the other.
        length: int32 [n, S]; a run may be empty.
    """

    pool: Int[np.ndarray, " P"]
    start: Int[np.ndarray, "n S"]
    length: Int[np.ndarray, "n S"]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Tokens of each sequence, int64."""
        return self.length.sum(axis=1, dtype=np.int64)

    def tokens(self, rows: Int[np.ndarray, " m"]) -> Int[np.ndarray, " total"]:
        """Returns the tokens of some sequences, one behind the other."""
        length = self.length[rows].reshape(-1).astype(np.int64)
        ends = np.cumsum(length)
        source = np.arange(ends[-1] if len(ends) else 0)
        source += np.repeat(self.start[rows].reshape(-1) - (ends - length), length)
        return self.pool[source]


class Pool:
    """Collects runs of tokens."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._size = 0

    def add(self, ids: Int[np.ndarray, " total"]) -> int:
        """Adds tokens and returns where they begin."""
        begin = self._size
        self._parts.append(np.asarray(ids, np.int32))
        self._size += len(ids)
        return begin

    def tokens(self) -> Int[np.ndarray, " P"]:
        """Returns all tokens."""
        return np.concatenate([*self._parts, np.zeros(0, np.int32)])


NUM_RUNS = 1 + len(BLOCKS)  # of a prompt: BOS and the blocks


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Prompts as runs of a pool.

    Attributes:
        start: int64 [n, NUM_RUNS], in the pool that was given.
        length: int32 [n, NUM_RUNS].
        shown: the items that each prompt shows in the end.
        fits: bool [n]; False where a prompt is too long with as few items as are allowed. Its runs
            are empty.
    """

    start: Int[np.ndarray, "n runs"]
    length: Int[np.ndarray, "n runs"]
    shown: ItemLists
    fits: Bool[np.ndarray, " n"]


def shown_texts(template: Template, shown: ItemLists, written: Sequence[str]) -> list[str]:
    """Returns what each prompt shows: the history, or the one item, as text.

    Args:
        template: the wording.
        shown: the items of each prompt.
        written: every item's SID or title, whichever the template's task shows.
    """
    items, offsets = shown.items.tolist(), shown.offsets.tolist()
    if not template.task.history:
        return [written[item] for item in items]
    texts = {item: template.write_item(written[item]) for item in set(items)}
    parts = [texts[item] for item in items]
    join = template.separator.join
    return [join(parts[begin:end]) for begin, end in itertools.pairwise(offsets)]


def encode_prompts(
    template: Template,
    shown: ItemLists,
    written: Sequence[str],
    tokenizer: TextTokenizer,
    max_tokens: Int[np.ndarray, " n"],
    pool: Pool,
    *,
    least_items: int = 1,
) -> EncodedPrompts:
    """Encodes prompts; from a history that is too long the oldest items are dropped.

    Args:
        template: the wording.
        shown: the items of each prompt, oldest first.
        written: every item's SID or title, whichever the template's task shows.
        tokenizer: makes tokens of each block on its own.
        max_tokens: tokens that each prompt may have, BOS included.
        pool: where the tokens go.
        least_items: a history is not cut below so many.
    """
    n, bos = len(shown), tokenizer.bos_token_id
    start, length = np.zeros((n, NUM_RUNS), np.int64), np.zeros((n, NUM_RUNS), np.int32)
    constant = [[] if bos is None else [bos]]
    constant += [
        [] if template.varies(block) else tokenizer.encode(template.block(block))
        for block in BLOCKS
    ]
    for run, ids in enumerate(constant):
        start[:, run], length[:, run] = pool.add(np.array(ids, np.int32)), len(ids)
    room = max_tokens - sum(map(len, constant))
    varying = [block for block in BLOCKS if template.varies(block)]

    least = least_items if template.task.history else 1
    cost: np.ndarray | None = None  # of an item, about
    fits, sizes = np.ones(n, bool), shown.sizes.copy()
    rows = np.arange(n)  # still to be encoded
    while len(rows):
        texts = shown_texts(template, shown.newest(sizes).take(rows), written)
        encoded = [
            tokenizer.encode_flat([template.block(block, text) for text in texts])
            for block in varying
        ]
        used = np.sum([np.diff(offsets) for _, offsets in encoded], axis=0)
        done = used <= room[rows]
        for block, (ids, offsets) in zip(varying, encoded, strict=True):
            run, taken = 1 + BLOCKS.index(block), np.diff(offsets)
            begin = pool.add(ids[np.repeat(done, taken)])
            taken = taken[done]
            start[rows[done], run] = begin + np.cumsum(taken) - taken
            length[rows[done], run] = taken
        rows, excess = rows[~done], (used - room[rows])[~done]
        hopeless = sizes[rows] <= least
        fits[rows[hopeless]] = False
        rows, excess = rows[~hopeless], excess[~hopeless]
        if len(rows):
            if cost is None:
                cost = _item_costs(template, np.unique(shown.items), written, tokenizer)
            sizes[rows] = _shortened(shown.newest(sizes).take(rows), excess, cost, least)
    length[~fits] = 0
    return EncodedPrompts(start, length, shown.newest(sizes), fits)


def _item_costs(
    template: Template,
    items: Int[np.ndarray, " n"],
    written: Sequence[str],
    tokenizer: TextTokenizer,
) -> Int[np.ndarray, " N"]:
    """Returns about how many tokens an item takes in a history, its separator included."""
    texts = [template.write_item(written[item]) + template.separator for item in items.tolist()]
    cost = np.zeros(len(written), np.int64)
    cost[items] = np.diff(tokenizer.encode_flat(texts)[1])
    return cost


def _shortened(
    shown: ItemLists, excess: Int[np.ndarray, " n"], cost: Int[np.ndarray, " N"], least: int
) -> Int[np.ndarray, " n"]:
    """Returns how many of each list's items to keep: one less at least, `least` at least.

    Tokens may reach from one item into the next, so that the costs are near the truth only; what is
    still too long comes here again.
    """
    before = np.concatenate([[0], np.cumsum(cost[shown.items])])
    list_of = shown.list_of
    # An item stays if those before it do not yet make up for the excess.
    stays = (before[:-1] - before[shown.offsets[:-1]][list_of]) >= excess[list_of]
    sizes = np.bincount(list_of[stays], minlength=len(shown))
    return np.maximum(np.minimum(sizes, shown.sizes - 1), least)
