"""What is shown of a feed's candidates."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from minirec.files.schema import require_whole
from minirec.recommend.candidates import Candidates
from minirec.recommend.feed.scorers import by_score
from minirec.recommend.pipeline import FeedQuery, Finalizer, Selector


class TopK(Selector):
    """Selects the highest scores; ties go to the lower id."""

    def __init__(self, k: int):
        """Takes how many; more than are shown, so that filters behind it leave enough.

        Raises:
            ValueError: `k` is no whole number above 0.
        """
        require_whole("k", k)
        self._k = k

    def select(self, query: FeedQuery, candidates: Candidates) -> Int64[np.ndarray, " k"]:
        """Returns the places of the best, best first."""
        del query
        return by_score(candidates["score"], candidates.item)[: self._k]


class FirstFew(Finalizer):
    """Leaves as many as the request asks for: the query's `num`, where it has one."""

    def finalize(self, query: FeedQuery, candidates: Candidates) -> Candidates:
        """Returns the first."""
        most = len(candidates) if query.get("num") is None else query["num"]
        return candidates.take(np.arange(min(most, len(candidates))))
