"""Hydrators of a feed: what is known of its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from minirec.recommend.candidates import Candidates
from minirec.recommend.feed.live import LiveEvents
from minirec.recommend.feed.shop import Shop
from minirec.recommend.feed.sources import past_of
from minirec.recommend.pipeline import FeedQuery, Hydrator

_FUSED = 60.0  # Of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009).


class ItemData(Hydrator):
    """What the shop says of an item: `title`, `brand`, `category` and `price`."""

    def __init__(self, shop: Shop):
        """Takes the shop."""
        self._shop = shop

    def hydrate(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns the columns."""
        del query
        shop, item = self._shop, candidates.item
        columns = {"brand": shop.brand, "category": shop.category, "price": shop.price}
        return {"title": shop.title_column[item]} | {
            name: column[item] for name, column in columns.items()
        }


class Stock(Hydrator):
    """Whether an item can be had, in a column."""

    def __init__(self, events: LiveEvents, column: str = "in_stock"):
        """Takes who knows, and what the column is called."""
        self._events, self._column = events, column

    def hydrate(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns it."""
        del query
        return {self._column: self._events.available(candidates.item)}


class Ages(Hydrator):
    """How long ago an item was listed, `age_s`, and whether it is new, `is_new`.

    New is what was listed within `new_s` seconds, and what the model was never trained on.
    """

    def __init__(self, events: LiveEvents, shop: Shop, *, new_s: float, most: int = 10_000):
        """Takes who knows.

        Args:
            events: answers.
            shop: the items.
            new_s: seconds.
            most: newest items that are looked at.
        """
        self._events, self._shop, self._new_s, self._most = events, shop, new_s, most

    def hydrate(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns seconds, NaN where nobody knows, and truth."""
        listed = self._events.new_items(self._most)
        time = np.full(len(self._shop.raw_item_ids), np.nan)
        time[listed.item] = listed.time
        age = query.now - time[candidates.item]
        return {
            "age_s": age,
            "is_new": (age <= self._new_s) | (self._shop.train_count[candidates.item] == 0),
        }


class Network(Hydrator):
    """Whether an item is of a brand or category that the user follows or returns to."""

    def __init__(self, shop: Shop):
        """Takes the shop."""
        self._shop = shop

    def hydrate(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns `in_network`; who returns has two events or more."""
        past, shop = past_of(query), self._shop
        followed = np.asarray(query.get("followed_brand", []), np.int64)
        brands = np.union1d(followed, _repeated(shop.brand[past.item]))
        inside = np.isin(shop.brand[candidates.item], brands)
        categories = _repeated(shop.category[past.item])
        return {"in_network": inside | np.isin(shop.category[candidates.item], categories)}


class Counts(Hydrator):
    """How many looked at an item lately, `views`, and how many did more than that, `likes`."""

    def __init__(self, events: LiveEvents, view: int | None = 0):
        """Takes who knows, and the event type that is no more than a look; None: there is none."""
        self._events, self._view = events, view

    def hydrate(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns the counts."""
        del query
        found = self._events.popularity()
        order = np.argsort(found.item, kind="stable")
        place = np.searchsorted(found.item[order], candidates.item)
        place = np.minimum(place, max(len(order) - 1, 0))
        counts = np.zeros((len(candidates), 2))
        if len(order):
            known = found.item[order][place] == candidates.item
            of = found.count[order][place[known]]
            looks = 0.0 if self._view is None else of[:, self._view]
            counts[known, 0] = looks
            counts[known, 1] = of.sum(axis=1) - looks
        return {"views": counts.sum(axis=1), "likes": counts[:, 1]}


class VectorOf(Protocol):
    """Knows the items' vectors."""

    def vectors(self, items: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n E"]:
        """Returns the vectors of items."""
        ...


class Vectors(Hydrator):
    """The vector of an item, `vector`, by which likeness is told."""

    def __init__(self, towers: VectorOf):
        """Takes who knows."""
        self._towers = towers

    def hydrate(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns them."""
        del query
        return {"vector": self._towers.vectors(candidates.item)}


class Fused(Hydrator):
    """How good the sources together hold an item to be: `fused`, `Σ 1 / (61 + place)`."""

    def hydrate(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns the sums; the same for an item wherever it stands."""
        del query
        if not len(candidates):
            return {"fused": np.zeros(0)}
        _, number = np.unique(candidates.item, return_inverse=True)
        share = 1.0 / (_FUSED + 1.0 + np.nan_to_num(candidates.get("place", 0.0)))
        return {"fused": np.bincount(number, share)[number]}


def _repeated(numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    number, count = np.unique(numbers[numbers >= 0], return_counts=True)
    return number[count > 1]
