"""Scorers of a feed that ask somebody else: the ranker, and who stands in for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from minirec.recommend.candidates import Candidates
from minirec.recommend.feed.live import PastEvents
from minirec.recommend.feed.sources import past_of
from minirec.recommend.pipeline import FeedQuery, Scorer


class ActionRanker(Protocol):
    """A ranker, here or elsewhere."""

    @property
    def actions(self) -> Sequence[str]:
        """Names of what it gives probabilities of, in their order."""
        ...

    def probabilities(
        self, past: PastEvents, items: Int[np.ndarray, " C"], now: float
    ) -> Float[np.ndarray, "C A"]:
        """Returns the probability of every action for every item.

        Args:
            past: the user's events, oldest first.
            items: item ids; no item's probabilities depend on which others there are.
            now: seconds since 1970.
        """
        ...


class ActionProbabilities(Scorer):
    """What the user would do with each candidate: the columns `p_ACTION`; no score yet."""

    name = "Ranker"

    def __init__(self, ranker: ActionRanker, *, budget_s: float | None = None):
        """Takes the ranker, and the seconds that it may take."""
        self._ranker, self.budget_s = ranker, budget_s

    def score(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns the probabilities."""
        if not len(candidates):
            return {}
        found = self._ranker.probabilities(past_of(query), candidates.item, query.now)
        return {f"p_{name}": found[:, place] for place, name in enumerate(self._ranker.actions)}


class RetrievalOrder(Scorer):
    """The sources' own order, where nothing has a score: an answer without a ranker.

    It has no say in an answer in which anything was scored: what has no score is not ranked then.
    """

    def score(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns `fused` as the score, and says so in `by_retrieval`."""
        del query
        if not np.isnan(candidates["score"]).all():
            return {}
        return {
            "score": candidates.get("fused", np.nan),
            "by_retrieval": np.ones(len(candidates), bool),
        }
