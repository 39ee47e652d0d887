"""One recommender's lists with the probability it gives to every listed item."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int32


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
