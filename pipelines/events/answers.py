"""What an event store answers: columns, newest first, and how they are chosen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class History(NamedTuple):
    """A user's events, newest first: ids of items, brands and categories, and codes of actions.

    All `[n]`; `time` in milliseconds since 1970, int64; brand and category -1 where not said.
    """

    item: np.ndarray
    brand: np.ndarray
    category: np.ndarray
    action: np.ndarray
    time: np.ndarray


class NewItems(NamedTuple):
    """Items new or back in stock, newest first: ids and times in milliseconds, int64 `[n]`."""

    item: np.ndarray
    time: np.ndarray


class Activity(NamedTuple):
    """What all users did lately, an entry an item, the lower ids first.

    Attributes:
        item: ids, int64 `[n]`.
        score: events, each halved a half-life that has passed since it, float64 `[n]`.
        count: events by action, int64 `[n, A]`.
    """

    item: np.ndarray
    score: np.ndarray
    count: np.ndarray


def newest(item: np.ndarray, time: np.ndarray, most: int) -> NewItems:
    """Returns the newest items, each once; of one time, the lower id first."""
    first = order = np.zeros(0, np.int64)
    # To sort all takes longest: mostly the newest few hold enough different items.
    for size in (2 * most, len(time)):
        if 0 < size < len(time):
            least = np.partition(time, len(time) - size)[len(time) - size]
            order = np.flatnonzero(time >= least)
        else:
            order = np.arange(len(time))
        order = order[np.lexsort((item[order], -time[order]))]
        _, first = np.unique(item[order], return_index=True)
        if len(first) >= most or size >= len(time):
            break
    order = order[np.sort(first)[:most]]
    return NewItems(item[order], time[order])


def repeated(rows: np.ndarray) -> np.ndarray:
    """Returns the rows from 0 on that come more than once; some of them several times."""
    rows = np.sort(rows)
    again = rows[1:][rows[1:] == rows[:-1]]
    return again[again >= 0].astype(np.int64)
