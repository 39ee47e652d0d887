"""One recommender's lists with the probability it gives to every listed item."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Float64, Int, Int32

from minirec.sids.statistics import number_sids


@dataclasses.dataclass(frozen=True, eq=False)
class RankedLists:
    """One list a user.

    Attributes:
        item: `[n, K]`, item ids, no item twice in a list; -1 where a list has none.
        probability: `[n, K]`, how probable the recommender holds each item to be the user's next
            one, in [0, 1]; 0 where there is no item. What a list leaves out has the rest, so that a
            list's probabilities add up to 1 at most.
    """

    item: Int32[np.ndarray, "n K"]
    probability: Float[np.ndarray, "n K"]


def sid_shares(
    sids: Int[np.ndarray, "N L"], train_count: Float[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """Returns each item's share of the probability of its SID.

    Items share a SID as they share their interactions in training, of which each is granted one
    more than it has.

    Args:
        sids: every item's SID, as codes or tokens.
        train_count: training interactions of each item.
    """
    _, group = np.unique(number_sids(sids), return_inverse=True)
    share = train_count + 1.0
    return share / np.bincount(group, weights=share)[group]


def shared_probability(lists: RankedLists, share: Float64[np.ndarray, " N"]) -> RankedLists:
    """Returns the lists with a SID's probability divided among the items that share it.

    A search gives each of them the probability of the SID as a whole.

    Args:
        lists: items with the probabilities of their SIDs.
        share: of each item, as `sid_shares` returns it.
    """
    return RankedLists(
        lists.item, lists.probability * np.where(lists.item >= 0, share[lists.item], 0)
    )


def with_unknown(lists: RankedLists, other: RankedLists, num_known: int) -> RankedLists:
    """Returns the lists with another's word for the items that their recommender cannot know.

    Items from `num_known` on came after it was made. They get the probability that `other` gives
    them, and the recommender's own items share what that leaves: its lists add up to 1 at most as
    before, and in a pool of both the new items are as probable as `other` says, whatever its
    weight.

    Args:
        lists: of items below `num_known`.
        other: lists of the same users.
        num_known: how many items the recommender knows.
    """
    new = other.item >= num_known
    probability = np.where(new, other.probability, 0.0)
    rest = np.maximum(0.0, 1.0 - probability.sum(axis=1, keepdims=True))
    item = np.where(new, other.item, -1).astype(np.int32)
    return RankedLists(
        np.concatenate([lists.item, item], axis=1),
        np.concatenate([lists.probability * rest, probability], axis=1),
    )
