"""Sources of a feed: who names candidates.

Each names its candidates best first; the column `place` says where a candidate stands in its
source's list, from 0. A query carries what hydrators found out: `past`, the user's events.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from minirec.files.schema import require_whole
from minirec.recommend.baselines.item_transition import ItemTransition
from minirec.recommend.candidates import Candidates
from minirec.recommend.feed.live import LiveEvents, PastEvents
from minirec.recommend.pipeline import FeedQuery, Source


class Finder(Protocol):
    """Finds items by a history: towers, a search over SIDs, an item table; here or elsewhere."""

    def find(
        self, past: PastEvents, most: int, now: float
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Returns items, best first, with their scores.

        Args:
            past: the user's events, oldest first.
            most: items at most.
            now: seconds since 1970.
        """
        ...


class Sized(Source):
    """A source that names so many candidates at most."""

    def __init__(self, most: int):
        """Takes how many.

        Raises:
            ValueError: `most` is no whole number above 0.
        """
        require_whole(f"{type(self).__name__}.most", most)
        self.most = most


class _Found(Sized):
    """What somebody else finds by the history; who nothing is known of, finds nothing here."""

    column = ""

    def __init__(self, finder: Finder, most: int):
        """Takes who finds, and how many."""
        super().__init__(most)
        self._finder = finder

    def enable(self, query: FeedQuery) -> bool:
        """Returns whether the user has a history."""
        return len(past_of(query).item) > 0

    def find(self, query: FeedQuery) -> Candidates:
        """Returns what was found, with the score in a column of its own."""
        item, score = self._finder.find(past_of(query), self.most, query.now)
        kept = np.asarray(item) >= 0
        return named(np.asarray(item)[kept], **{self.column: np.asarray(score, float)[kept]})


class TwoTower(_Found):
    """The items whose vectors are nearest to that of the history."""

    column = "two_tower"


class SidBeams(_Found):
    """What a beam search over SIDs writes, with its log-probability."""

    column = "sid_beams"


class ItemTable(_Found):
    """The best by the item table of a decoder of SIDs."""

    column = "item_table"


class TransitionCount(Sized):
    """What followed the newest items in training."""

    def __init__(self, transition: ItemTransition, most: int):
        """Takes the count, and how many."""
        super().__init__(most)
        self._transition = transition

    def find(self, query: FeedQuery) -> Candidates:
        """Returns what followed, with its probability as `transition`."""
        history = past_of(query).item[-10:]
        if not len(history):
            return named(history)
        ranked = self._transition.rank_followers([history], self.most, exclude_seen=False)
        kept = ranked.item[0] >= 0
        return named(ranked.item[0][kept], transition=ranked.probability[0][kept])


class Recency(Sized):
    """What the user saw and did not buy, newest first."""

    def find(self, query: FeedQuery) -> Candidates:
        """Returns the history's distinct items that were not bought."""
        newest_first = past_of(query).item[::-1]
        _, first = np.unique(newest_first, return_index=True)
        item = newest_first[np.sort(first)]
        bought = list(query.get("bought_items", {}))
        return named(item[~np.isin(item, bought)][: self.most])


class InNetwork(Sized):
    """New and back-in-stock items of brands and categories that the user follows or returns to."""

    def __init__(self, events: LiveEvents, most: int):
        """Takes who knows, and how many."""
        super().__init__(most)
        self._events = events

    def find(self, query: FeedQuery) -> Candidates:
        """Returns them, newest first."""
        found = self._events.in_network(query.user, self.most)
        return named(found.item)


class PopularNow(Sized):
    """What all users look at now: their events, older ones counting less."""

    def __init__(self, events: LiveEvents, most: int):
        """Takes who knows, and how many."""
        super().__init__(most)
        self._events = events

    def find(self, query: FeedQuery) -> Candidates:
        """Returns the items with the highest sums, ties to the lower id."""
        del query
        found = self._events.popularity()
        best = np.lexsort((found.item, -found.score))[: self.most]
        return named(found.item[best])


class Bestsellers(Sized):
    """What was popular in training: for hours in which nothing has happened yet."""

    def __init__(self, order: Int[np.ndarray, " N"], most: int):
        """Takes all items, the most popular first, and how many to name."""
        super().__init__(most)
        self._order = np.asarray(order, np.int64)

    def find(self, query: FeedQuery) -> Candidates:
        """Returns the first."""
        del query
        return named(self._order[: self.most])


class NewItems(Sized):
    """The newest of the shop, whatever the brand: what nobody could learn anything of yet."""

    def __init__(self, events: LiveEvents, most: int):
        """Takes who knows, and how many."""
        super().__init__(most)
        self._events = events

    def find(self, query: FeedQuery) -> Candidates:
        """Returns them, newest first."""
        del query
        return named(self._events.new_items(self.most).item)


def past_of(query: FeedQuery) -> PastEvents:
    """Returns the user's events, none where nobody knows them."""
    return query.get("past") or PastEvents.of()


def named(item: Int[np.ndarray, " n"], **columns: np.ndarray) -> Candidates:
    """Returns candidates in a source's order, with their places in it."""
    return Candidates.of(item, place=np.arange(len(item), dtype=np.float64), **columns)
