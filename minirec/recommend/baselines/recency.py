"""The baseline of shops: what a user has looked at, the newest first.

In a shop most of what people do next concerns an item that they have seen, and the newest one alone
is right half of that time. Where histories never repeat, it has nothing to say.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, Int64

from minirec.recommend.baselines.lists import Histories, ages, blocks, empty_lists, no_pairs, pairs
from minirec.recommend.baselines.popularity import Popularity, fill_by_popularity


class Recency:
    """Recommends the distinct items of a history, newest first, then the most popular ones.

    Attributes:
        popularity: what lists are filled up by.
    """

    def __init__(self, popularity: Popularity):
        self.popularity = popularity

    def recommend(
        self, histories: Histories, k: int, *, exclude_seen: bool
    ) -> Int32[np.ndarray, "n k"]:
        """Returns `k` items a user, best first; -1 where none is left.

        Args:
            histories: item ids a user, oldest first.
            k: length of the lists.
            exclude_seen: leave out every item of the user's history, so that popularity is left.

        Raises:
            ValueError: `k` below 1, or an item outside the catalogue.
        """
        lists = empty_lists(histories, k)
        for rows, block in blocks(histories, self.popularity.num_items):
            if exclude_seen:
                excluded = pairs(block)
            else:
                excluded = no_pairs()
                user, item, place = newest(block)
                listed = place < k
                lists[rows][user[listed], place[listed]] = item[listed]
            fill_by_popularity(lists[rows], self.popularity, excluded)
        return lists


def newest(
    block: Int64[np.ndarray, "b H"],
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Returns (user, item, place) of every distinct item of a padded block's histories.

    Users come in their order, and items by place: 0 is the item of the newest event, 1 the next
    distinct one, and so on.
    """
    user, column = np.nonzero(block >= 0)
    age = ages(block)[user, column]
    order = np.lexsort((age, user))
    user, item = user[order], block[user, column][order]
    width = int(item.max(initial=0)) + 1
    first = np.sort(np.unique(user * width + item, return_index=True)[1])
    user, item = user[first], item[first]
    return user, item, np.arange(len(user)) - np.searchsorted(user, user)
