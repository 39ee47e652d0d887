"""What a feed is made with: two towers that find candidates, and a ranker that judges them."""

from __future__ import annotations

from flax import nnx

from minirec.models.ranker import CandidateRanker, RankerConfig
from minirec.models.two_tower import TwoTower, TwoTowerConfig


class FeedModel(nnx.Module):
    """A ranker and two towers, trained together and sharing nothing.

    Attributes:
        ranker: judges candidates.
        towers: finds them.
    """

    def __init__(self, ranker: RankerConfig, towers: TwoTowerConfig, *, rngs: nnx.Rngs):
        self.ranker = CandidateRanker(ranker, rngs=rngs)
        self.towers = TwoTower(towers, rngs=rngs)
