"""Task C: what liked items share, and another that shares it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import numpy as np
from jaxtyping import Int16, Int32, Int64

from pipelines.text.watch_catalogue import KINDS, WatchCatalogue
from pipelines.text.watch_config import MARKS, WatchConfig
from pipelines.text.watch_draw import in_rounds, stands_in
from pipelines.text.watch_histories import Histories
from pipelines.text.watch_lists import Lists

_LIKED = MARKS.index("liked")
_MANY = 10**9
_TRIES = 8  # at a row that is not there yet


@dataclasses.dataclass(frozen=True, eq=False)
class Values:
    """What items may share, numbered.

    Attributes:
        kind: of each value, a place in `KINDS`.
        text: of each value.
        of: by row of the catalogue, the numbers of its values, ascending.
    """

    kind: tuple[int, ...]
    text: tuple[str, ...]
    of: tuple[tuple[int, ...], ...]

    @classmethod
    def of_catalogue(cls, catalogue: WatchCatalogue, config: WatchConfig) -> Values:
        """Returns the values of all items; those that stand in the wording give no answer away."""
        number: dict[tuple[int, str], int] = {}
        found: list[list[int]] = [[] for _ in range(len(catalogue))]
        fixed = " ".join(config.said.liked.values())
        for kind, name in enumerate(KINDS):
            if name not in config.said.shared:
                continue
            for item, values in enumerate(catalogue.shareable[name]):
                for value in values:
                    found[item].append(number.setdefault((kind, value), len(number)))
        kinds = tuple(kind for kind, _ in number)
        texts = tuple(text for _, text in number)
        told = {place for place, text in enumerate(texts) if stands_in(text, fixed)}
        of = tuple(tuple(sorted(set(values) - told)) for values in found)
        return cls(kinds, texts, of)


@dataclasses.dataclass(frozen=True, eq=False)
class ReasonRows:
    """Rows of task C; no two are alike.

    Attributes:
        catalogue: the items.
        config: the wording.
        values: what items may share.
        user: what the database calls whose list it is.
        offsets: row `i` is about the items `offsets[i]:offsets[i + 1]`, its answer the last.
        item: rows of the catalogue.
        shown: how many liked items it shows.
    """

    catalogue: WatchCatalogue
    config: WatchConfig
    values: Values
    user: Int64[np.ndarray, " n"]
    offsets: Int64[np.ndarray, " n+1"]
    item: Int32[np.ndarray, " E"]
    shown: Int16[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.user)

    @functools.cached_property
    def _histories(self) -> Histories:
        return Histories(self.catalogue, self.config)

    def row(self, number: int) -> dict[str, Any]:
        """Returns a row without its id and task."""
        words = self.config.said
        items = self.item[self.offsets[number] : self.offsets[number + 1]].tolist()
        *shown, answer = items
        history = self._histories.text(shown, [_LIKED] * len(shown))
        shared = set.intersection(*(set(self.values.of[item]) for item in items))
        told = []
        for kind, name in enumerate(KINDS):
            texts = [
                self.values.text[value]
                for value in sorted(shared)
                if self.values.kind[value] == kind
            ]
            if texts:
                told.append(words.shared[name].format(values=", ".join(texts)))
        return {
            "input": words.liked[str(len(shown))].format(history=history),
            "output": words.reason.format(
                shared=words.shared_between.join(told), sid=self.catalogue.sids[answer]
            ),
            "anime_ids": self.catalogue.item_id[items].tolist(),
            "user_id": int(self.user[number]),
            "meta": {"template": f"liked_{len(shown)}", "shown": len(shown)},
        }


def reason_capacity(config: WatchConfig, lists: Lists, values: Values) -> Int64[np.ndarray, " U"]:
    """Returns how many rows each user's liked items can make at most."""
    capacity = np.zeros(len(lists.users), np.int64)
    liked = np.flatnonzero(lists.mark == _LIKED)
    user = lists.user_of[liked]
    for one in np.unique(user).tolist():
        items = lists.item[liked[np.searchsorted(user, one) : np.searchsorted(user, one + 1)]]
        sizes = [len(group) for group in _groups(items.tolist(), values).values()]
        ways = sum(
            math.comb(size, shown) * (size - shown)
            for size in sizes
            for shown in config.task_c_liked
            if size > shown
        )
        capacity[one] = min(ways, _MANY)
    return capacity


def reason_rows(
    config: WatchConfig,
    catalogue: WatchCatalogue,
    lists: Lists,
    values: Values,
    capacity: Int64[np.ndarray, " U"],
    quota: int,
) -> ReasonRows:
    """Returns `quota` different rows, evenly over users; fewer where there are no more.

    What is shared is drawn first (a genre, a studio, an era or a type that enough liked items
    have), then the items that share it.

    Args:
        config: numbers of liked items, and seed.
        catalogue: the items.
        lists: what may be shown and asked for.
        values: what items may share.
        capacity: what `reason_capacity` returned.
        quota: rows.
    """
    drawn: list[tuple[int, list[int]]] = []
    seen: dict[int, set[tuple[int, ...]]] = {}
    rounds: dict[int, int] = {}

    def draw(user: int, number: int) -> int:
        start, stop = int(lists.offsets[user]), int(lists.offsets[user + 1])
        items = lists.item[start:stop][lists.mark[start:stop] == _LIKED]
        groups = sorted(_groups(items.tolist(), values).items())
        by_shown = {
            shown: [group for _, group in groups if len(group) > shown]
            for shown in config.task_c_liked
        }
        able = [shown for shown in config.task_c_liked if by_shown[shown]]
        rounds[user] = rounds.get(user, 0) + 1
        rng = np.random.default_rng([config.seed, 3, user, rounds[user]])
        known, made = seen.setdefault(user, set()), 0
        # A few numbers a row, all at once: a call for each would take longer than the rest.
        chances = rng.random((number * _TRIES, 2 + max(able) + 1)).tolist()
        for turn, chance in enumerate(chances):
            shown = able[turn % len(able)]
            choice = by_shown[shown]
            group = choice[int(chance[0] * len(choice))]
            picked = _distinct(group, chance[2 : 3 + shown])
            names = (*sorted(picked[:-1]), picked[-1])
            if names in known:
                continue
            known.add(names)
            drawn.append((user, picked))
            made += 1
            if made == number:
                break
        return made

    in_rounds(quota, capacity, draw, np.random.default_rng([config.seed, 3]))
    users = np.array([user for user, _ in drawn], np.int64)
    sizes = np.array([len(items) for _, items in drawn], np.int64)
    flat = np.fromiter(
        itertools.chain.from_iterable(items for _, items in drawn), np.int32, int(sizes.sum())
    )
    return ReasonRows(
        catalogue,
        config,
        values,
        lists.users[users],
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        flat,
        (sizes - 1).astype(np.int16),
    )


def _groups(items: list[int], values: Values) -> dict[int, list[int]]:
    """Returns by value the items that have it."""
    groups: dict[int, list[int]] = {}
    for item in items:
        for value in values.of[item]:
            groups.setdefault(value, []).append(item)
    return groups


def _distinct(group: list[int], chances: list[float]) -> list[int]:
    """Returns as many different items as there are chances (Floyd's algorithm)."""
    places: list[int] = []
    for number, chance in zip(range(len(group) - len(chances), len(group)), chances, strict=True):
        place = int(chance * (number + 1))
        places.append(number if place in places else place)
    # Floyd's last one is likelier to be a late item: turned by a chance, each place is as likely.
    turn = int(chances[0] * 1e6) % len(places)
    return [group[place] for place in places[turn:] + places[:turn]]
