"""Filters of a feed: what must not be shown, and what need not be shown again.

Where nothing is known of a candidate (NaN, -1, ""), what would let it through does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import Bool, Int

from minirec.recommend.candidates import Candidates
from minirec.recommend.pipeline import FeedQuery, Filter


class Duplicates(Filter):
    """Leaves an item out that stands before already."""

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns which stand for the first time."""
        del query
        first = np.zeros(len(candidates), bool)
        first[np.unique(candidates.item, return_index=True)[1]] = True
        return first


class ItemDataMissing(Filter):
    """Leaves out what lacks data that a page needs."""

    is_safety: ClassVar[bool] = True

    def __init__(self, columns: Sequence[str]):
        """Takes the columns that must hold something: no NaN, no -1, no None, no ""."""
        self._columns = tuple(columns)

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns which have all of it."""
        del query
        kept = np.ones(len(candidates), bool)
        for name in self._columns:
            kept &= _holds(candidates[name]) if name in candidates else False
        return kept


class Age(Filter):
    """Leaves out items that have been there for too long; of an unknown age they stay."""

    def __init__(self, most_s: float):
        """Takes the most seconds."""
        self._most_s = most_s

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns which are young enough."""
        del query
        return ~(candidates.get("age_s", 0.0) > self._most_s)


class OutOfStock(Filter):
    """Leaves out what cannot be had."""

    is_safety: ClassVar[bool] = True

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns what can be had; of what nothing is known is not."""
        del query
        return np.asarray(candidates["in_stock"] == 1)


class OwnListings(Filter):
    """Leaves out what the user sells."""

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns what others sell."""
        return np.array([seller != query.user for seller in candidates["seller"]], bool)


class SeenBefore(Protocol):
    """A set that may err to one side: it never lacks what was put in (a Bloom filter)."""

    def __contains__(self, item: int) -> bool: ...


class PreviouslySeen(Filter):
    """Leaves out what the client says that the user has seen: by ids, and by a Bloom filter."""

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns what is new to the user."""
        kept = ~np.isin(candidates.item, np.asarray(query.get("seen_items", []), np.int64))
        bloom: SeenBefore | None = query.get("seen_bloom")
        if bloom is not None:
            kept &= np.array([item not in bloom for item in candidates.item.tolist()], bool)
        return kept


class PreviouslyServed(Filter):
    """Leaves out what was served to the user lately."""

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns what was not."""
        return ~np.isin(candidates.item, np.asarray(query.get("served_items", []), np.int64))


class AlreadyBought(Filter):
    """Leaves out what the user has bought, until its category's time has come again."""

    def __init__(self, interval_s: Mapping[int, float], default_s: float = np.inf):
        """Takes the times.

        Args:
            interval_s: seconds, by category, after which such an item is bought again.
            default_s: of the other categories; infinity: never.
        """
        self._interval_s, self._default_s = dict(interval_s), default_s

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns what may be bought; the query's `bought_items` has times by item."""
        bought: Mapping[int, float] = query.get("bought_items", {})
        category = np.nan_to_num(candidates.get("category", -1), nan=-1)
        return np.array(
            [
                item not in bought
                or query.now - bought[item] >= self._interval_s.get(int(kind), self._default_s)
                for item, kind in zip(candidates.item.tolist(), category, strict=True)
            ],
            bool,
        )


class Blocked(Filter):
    """Leaves out what the user has blocked: brands or categories."""

    is_safety: ClassVar[bool] = True

    def __init__(self, column: str, *, must_be_known: bool = False):
        """Takes the column; the query's `blocked_COLUMN` holds what is blocked of it.

        Args:
            column: see above.
            must_be_known: fail where the query does not say, since nobody could be asked; then
                nothing passes that has something under the column.
        """
        self._column, self._must_be_known = column, must_be_known
        self.name = f"Blocked({column})"

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns what is not blocked."""
        name = f"blocked_{self._column}"
        given = query[name] if self._must_be_known else query.get(name, [])
        blocked = np.asarray(given, np.int64)
        return ~np.isin(candidates[self._column], blocked)

    def guards(self, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns what could be blocked."""
        return np.asarray(candidates[self._column] != -1)


class Keywords(Filter):
    """Leaves out titles with words that the user does not want to see: whole words, any case."""

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns the others."""
        muted = {word.casefold() for word in query.get("muted_words", [])}
        return np.array(
            [
                not muted or muted.isdisjoint(re.findall(r"\w+", str(title).casefold()))
                for title in candidates["title"]
            ],
            bool,
        )


class PriceRange(Filter):
    """Leaves out what costs less or more than the query says (`price_from`, `price_to`)."""

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns what lies between, both ends included; an unknown price lies nowhere."""
        least, most = query.get("price_from", -np.inf), query.get("price_to", np.inf)
        price = candidates["price"]
        if least == -np.inf and most == np.inf:
            return np.ones(len(candidates), bool)
        return (price >= least) & (price <= most) & (price >= 0)


class Region(Filter):
    """Leaves out what is not sold where the user is; each candidate's `regions` is a set."""

    is_safety: ClassVar[bool] = True

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns what is; where the query names no region, all."""
        region = query.get("region")
        if region is None:
            return np.ones(len(candidates), bool)
        return np.array([region in regions for regions in candidates["regions"]], bool)


class Visibility(Filter):
    """Leaves out what may not be shown to anyone: the column `visible` says it at last."""

    is_safety: ClassVar[bool] = True

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns what is visible; of what nothing is known is not."""
        del query
        return np.asarray(candidates["visible"] == 1)


class OneOfAGroup(Filter):
    """Keeps the first of each product group, such as one size of a shirt; group -1 is none."""

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns the first of each group."""
        del query
        group: Int[np.ndarray, " n"] = candidates["group"]
        first = np.zeros(len(candidates), bool)
        first[np.unique(group, return_index=True)[1]] = True
        return first | (group < 0)


def _holds(column: np.ndarray) -> Bool[np.ndarray, " n"]:
    if column.dtype.kind == "f":
        return ~np.isnan(column)
    if column.dtype.kind in "iu":
        return column != -1
    if column.dtype.kind == "b":
        return np.ones(len(column), bool)
    return np.array([value is not None and value != "" for value in column], bool)
