"""A shop's items as a feed shows them, and by which keys an event store knows them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64


@dataclasses.dataclass(frozen=True, eq=False)
class Shop:
    """Items, and what is known of each.

    Attributes:
        raw_item_ids: what the log calls them, `N`.
        titles: what to show people.
        brand: `[N]` numbers of brands; -1: none.
        category: `[N]` numbers of categories; -1: none.
        price: `[N]`; NaN where it is not known.
        train_count: `[N]` events that the model was trained on.
        brands: names of the brands.
        categories: names of the categories.
        keys: `[N]` what an event store calls the items.
        brand_keys: the same for the brands.
        category_keys: the same for the categories.
    """

    raw_item_ids: Sequence[str]
    titles: Sequence[str]
    brand: Int64[np.ndarray, " N"]
    category: Int64[np.ndarray, " N"]
    price: Float64[np.ndarray, " N"]
    train_count: Int64[np.ndarray, " N"]
    brands: Sequence[str]
    categories: Sequence[str]
    keys: Int64[np.ndarray, " N"]
    brand_keys: Int64[np.ndarray, " brands"]
    category_keys: Int64[np.ndarray, " categories"]

    @functools.cached_property
    def item_of(self) -> dict[str, int]:
        """The id of every item, by what the log calls it."""
        return {raw: item for item, raw in enumerate(self.raw_item_ids)}

    @functools.cached_property
    def title_column(self) -> np.ndarray:
        """The titles, to be taken from by ids."""
        return np.array([*self.titles, ""], object)[:-1]

    def items_of(
        self, keys: Int[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " m"], Bool[np.ndarray, " n"]]:
        """Returns ids of items by their keys, and which keys are known; others have no id."""
        return _found(self._sorted_items, keys)

    def brands_of(self, keys: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
        """Returns numbers of brands by their keys; unknown ones are left out."""
        return _found(self._sorted_brands, keys)[0]

    @functools.cached_property
    def _sorted_items(self) -> tuple[np.ndarray, np.ndarray]:
        return _sorted(self.keys)

    @functools.cached_property
    def _sorted_brands(self) -> tuple[np.ndarray, np.ndarray]:
        return _sorted(self.brand_keys)


def _sorted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    return keys[order], order


def _found(known: tuple[np.ndarray, np.ndarray], keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ordered, order = known
    keys = np.asarray(keys, np.int64)
    if not len(ordered):
        return np.zeros(0, np.int64), np.zeros(len(keys), bool)
    place = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    there = ordered[place] == keys
    return order[place[there]], there
