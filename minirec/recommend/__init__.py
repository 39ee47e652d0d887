"""Recommending: the counts that every model is measured beside, and the fusion of several sources.

Everything comes in as arrays; but for `ranker`, which asks models, and `gated.hidden`, which trains
a layer, nothing here imports JAX.
"""

from minirec.recommend.baselines import (
    BASELINES,
    Baseline,
    CoOccurrence,
    ItemTransition,
    Known,
    Popularity,
    TransitionContent,
    baselines_for,
)
from minirec.recommend.fusion import fuse
from minirec.recommend.fusion_weights import FusionWeights
from minirec.recommend.ranked_lists import (
    RankedLists,
    shared_probability,
    sid_shares,
    with_unknown,
)
from minirec.recommend.system import System

__all__ = [
    "BASELINES",
    "Baseline",
    "CoOccurrence",
    "FusionWeights",
    "ItemTransition",
    "Known",
    "Popularity",
    "RankedLists",
    "System",
    "TransitionContent",
    "baselines_for",
    "fuse",
    "shared_probability",
    "sid_shares",
    "with_unknown",
]
