"""What a baseline may know, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Int, Int32

from minirec.recommend.baselines.item_transition import ItemTransition
from minirec.recommend.baselines.lists import Histories
from minirec.recommend.content import Neighbours


class Baseline(Protocol):
    """Recommends without a model."""

    def recommend(
        self, histories: Histories, k: int, *, exclude_seen: bool
    ) -> Int32[np.ndarray, "n k"]:
        """Returns the `k` best items a user, best first; -1 where none is left.

        Args:
            histories: item ids a user, oldest first.
            k: length of the lists.
            exclude_seen: leave out every item of the user's history.

        Raises:
            ValueError: `k` below 1, or an item outside the catalogue.
        """
        ...


class Weighted(Protocol):
    """A baseline with a weight that validation users choose."""

    def ranks(
        self,
        histories: Histories,
        target: Int[np.ndarray, " n"],
        weights: Sequence[float],
        *,
        exclude_seen: bool,
    ) -> Int32[np.ndarray, "W n"]:
        """Returns the place of each target, from 0, under each of some weights."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """What baselines are fitted on.

    Attributes:
        transition: the count of transitions, with the items' popularity.
        neighbours: which items are like which by what is written about them.
        lists: returns the items of all training lists, one after another, and where each begins.
        choose: returns which of some weights validation users like best; it is told the baseline's
            name, the baseline and the weights.
    """

    transition: ItemTransition
    neighbours: Neighbours
    choose: Callable[[str, Weighted, Sequence[float]], float]
    lists: Callable[[], tuple[Int[np.ndarray, " E"], Int[np.ndarray, " S1"]]]
