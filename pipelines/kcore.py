"""Iterative k-core filtering of interactions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int


def k_core(
    user: Int[np.ndarray, " E"], item: Int[np.ndarray, " E"], k: int
) -> Bool[np.ndarray, " E"]:
    """Returns which interactions belong to the k-core of the log.

    The k-core is the largest part of the log in which every user and every item has at least `k`
    interactions (repeats count). Users and items with fewer are dropped in turn until none is
    left, since a dropped item may leave a user short and the other way round; the result does not
    depend on the order.

    Args:
        user: dense user of each interaction.
        item: dense item of each interaction.
        k: the least number of interactions; 0 and 1 keep everything.

    Raises:
        ValueError: `k` is negative, or nothing is left.
    """
    if k < 0:
        raise ValueError(f"k_core is {k}; it must be 0 (off) or more")
    kept = np.arange(len(user))
    rounds = 0
    while k > 1 and len(kept):
        user_count = np.bincount(user[kept])
        item_count = np.bincount(item[kept])
        stays = (user_count[user[kept]] >= k) & (item_count[item[kept]] >= k)
        if stays.all():
            break
        kept = kept[stays]
        rounds += 1
    if not len(kept):
        most_user = int(np.bincount(user).max()) if len(user) else 0
        most_item = int(np.bincount(item).max()) if len(item) else 0
        raise ValueError(
            f"k_core={k} leaves nothing of {len(user)} interactions of {len(np.unique(user))} "
            f"users and {len(np.unique(item))} items (after {rounds} rounds; the busiest user has "
            f"{most_user}, the most frequent item {most_item}); choose a smaller k_core"
        )
    mask = np.zeros(len(user), bool)
    mask[kept] = True
    return mask
