"""Task B: a history with one of its items masked."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
from jaxtyping import Int8, Int16, Int32, Int64

from pipelines.text.watch_catalogue import WatchCatalogue
from pipelines.text.watch_config import MARKS, MASK_MODES, NO_ORDER, WatchConfig
from pipelines.text.watch_draw import in_rounds
from pipelines.text.watch_histories import Histories
from pipelines.text.watch_lists import Lists

_MANY = 10**9  # rows of one user; nobody is asked for as many
_CELLS = 4_000_000  # random numbers at a time


@dataclasses.dataclass(frozen=True, eq=False)
class MaskRows:
    """Rows of task B; no two are alike.

    Attributes:
        catalogue: the items.
        config: the wording.
        user: what the database calls whose list it is.
        answer: the masked item, a row of the catalogue.
        hidden: how many entries are shown before it.
        mode: place in `MASK_MODES`.
        offsets: row `i` shows the entries `offsets[i]:offsets[i + 1]`.
        item: of the entries.
        mark: of the entries.
    """

    catalogue: WatchCatalogue
    config: WatchConfig
    user: Int64[np.ndarray, " n"]
    answer: Int32[np.ndarray, " n"]
    hidden: Int16[np.ndarray, " n"]
    mode: Int8[np.ndarray, " n"]
    offsets: Int64[np.ndarray, " n+1"]
    item: Int32[np.ndarray, " E"]
    mark: Int8[np.ndarray, " E"]

    def __len__(self) -> int:
        return len(self.user)

    @functools.cached_property
    def _histories(self) -> Histories:
        return Histories(self.catalogue, self.config)

    def row(self, number: int) -> dict[str, Any]:
        """Returns a row without its id and task."""
        start, stop = self.offsets[number], self.offsets[number + 1]
        items, marks = self.item[start:stop].tolist(), self.mark[start:stop].tolist()
        mode = MASK_MODES[self.mode[number]]
        answer, hidden = int(self.answer[number]), int(self.hidden[number])
        ids = self.catalogue.item_id
        return {
            "input": self._histories.prompt(items, marks, hidden, mode),
            "output": self.config.said.masked.format(sid=self.catalogue.sids[answer]),
            "anime_ids": [*ids[items].tolist(), int(ids[answer])],
            "user_id": int(self.user[number]),
            "meta": {"template": mode, "shown": len(items)},
        }


def mask_capacity(
    config: WatchConfig, lists: Lists
) -> tuple[Int64[np.ndarray, " U"], dict[str, int]]:
    """Returns how many rows each user's list can make, and counts of lists too short."""
    size = np.diff(lists.offsets)
    may = _maskable(config, lists)
    number = np.add.reduceat(np.append(may, False), lists.offsets[:-1]).astype(np.int64)
    number[size == 0] = 0
    most = config.task_b_max_history
    long_enough = size > config.task_b_min_history
    capacity = np.zeros(len(size), np.int64)
    for user in np.flatnonzero(long_enough & (number > 0)).tolist():
        others = int(size[user]) - 1
        ways = math.comb(others, most) if others > most else 1
        capacity[user] = min(int(number[user]) * ways, _MANY)
    counts = {
        "lists_too_short": int(np.count_nonzero((size > 0) & ~long_enough)),
        "lists_without_answer": int(np.count_nonzero(long_enough & (number == 0))),
        "seeds": int(np.count_nonzero(capacity)),
    }
    return capacity, counts


def mask_rows(
    config: WatchConfig,
    catalogue: WatchCatalogue,
    lists: Lists,
    capacity: Int64[np.ndarray, " U"],
    quota: int,
) -> MaskRows:
    """Returns `quota` different rows, evenly over users; fewer where there are no more.

    Without an order a row shows a drawn part of the list in a drawn order, and asks for another
    entry of it. With one it shows entries that follow one another: those before the masked one
    ("last"), or those around it ("random").

    Args:
        config: lengths, modes, marks that may be masked, and seed.
        catalogue: the items.
        lists: what may be shown and asked for.
        capacity: what `mask_capacity` returned.
        quota: rows.
    """
    may = _maskable(config, lists)
    seen: dict[int, set[int]] = {}
    drawn: list[_Drawn] = []
    rounds: dict[int, int] = {}

    def draw(user: int, number: int) -> int:
        start, stop = int(lists.offsets[user]), int(lists.offsets[user + 1])
        answers = np.flatnonzero(may[start:stop])
        rounds[user] = rounds.get(user, 0) + 1
        rng = np.random.default_rng([config.seed, 2, user, rounds[user]])
        known, before = seen.setdefault(user, set()), len(seen[user])
        for place, shown, hidden, mode in _windows(config, answers, stop - start, number, rng):
            names = hash((place, MASK_MODES.index(mode), *sorted(shown.tolist())))
            if names not in known:
                known.add(names)
                drawn.append(_Drawn(user, start + place, start + shown, hidden, mode))
        return len(known) - before

    in_rounds(quota, capacity, draw, np.random.default_rng([config.seed, 2]))
    sizes = [len(one.shown) for one in drawn]
    shown = np.concatenate([*(one.shown for one in drawn), np.zeros(0, np.int64)])
    answers = np.array([one.answer for one in drawn], np.int64)
    users = np.array([one.user for one in drawn], np.int64)
    return MaskRows(
        catalogue,
        config,
        lists.users[users],
        lists.item[answers],
        np.array([one.hidden for one in drawn], np.int16),
        np.array([MASK_MODES.index(one.mode) for one in drawn], np.int8),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        lists.item[shown],
        lists.mark[shown],
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawn:
    """A row: whose it is, and places among the lists' entries."""

    user: int
    answer: int
    shown: np.ndarray
    hidden: int
    mode: str


def _maskable(config: WatchConfig, lists: Lists) -> np.ndarray:
    return np.isin(lists.mark, [MARKS.index(name) for name in config.task_b_mask_marks])


def _windows(
    config: WatchConfig, answers: np.ndarray, size: int, number: int, rng: np.random.Generator
) -> list[tuple[int, np.ndarray, int, str]]:
    """Returns (answer, shown, entries before the answer, mode) of so many rows, within a list."""
    most, least = config.task_b_max_history, config.task_b_min_history
    # Every item that may be masked comes before one comes again.
    masks = np.concatenate([rng.permutation(answers) for _ in range(-(-number // len(answers)))])[
        :number
    ]
    modes = config.task_b_mask_modes
    if config.order_by != NO_ORDER:
        found = []
        for row, place in enumerate(masks.tolist()):
            mode = modes[(row + int(rng.integers(len(modes)))) % len(modes)]
            if mode == "last" and place >= least:
                found.append((place, np.arange(max(0, place - most), place), 0, mode))
                found[-1] = (place, found[-1][1], len(found[-1][1]), mode)
            elif "random" in modes:
                first = max(0, min(place, int(rng.integers(place - most, place + 1)), size - 1))
                first = max(0, min(first, size - most - 1))
                window = np.arange(first, min(size, first + most + 1))
                found.append((place, window[window != place], place - first, "random"))
        return found
    found = []
    at_once = max(1, _CELLS // size)
    for begin in range(0, number, at_once):
        part = masks[begin : begin + at_once]
        keys = rng.random((len(part), size), np.float32)
        keys[np.arange(len(part)), part] = 2.0  # The masked one comes last.
        shown = min(most, size - 1)
        near = np.argpartition(keys, shown - 1, axis=1)[:, :shown]
        order = np.argsort(np.take_along_axis(keys, near, 1), axis=1, kind="stable")
        near = np.take_along_axis(near, order, 1)
        found += [
            (place, row, shown, "random") for place, row in zip(part.tolist(), near, strict=True)
        ]
    return found
