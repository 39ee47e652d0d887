"""The baselines that stand beside every model, a file each.

All are fitted on training interactions, and on what is written about the items. Ties go by
popularity, and ties in popularity to the lower item id, so that the lists are the same everywhere.
"""

from collections.abc import Callable, Mapping

from minirec.recommend.baselines.item_transition import ItemTransition
from minirec.recommend.baselines.known import Baseline, Known
from minirec.recommend.baselines.popularity import Popularity
from minirec.recommend.baselines.recency import Recency
from minirec.recommend.baselines.recency_transition import RecencyTransition
from minirec.recommend.baselines.transition_content import TransitionContent
from minirec.recommend.sources import (
    ITEM_TRANSITION,
    POPULARITY,
    RECENCY,
    RECENCY_TRANSITION,
    TRANSITION_CONTENT,
)

BASELINES: Mapping[str, Callable[[Known], Baseline | None]] = {
    RECENCY_TRANSITION: lambda known: (
        None if known.exclude_seen else RecencyTransition(known.transition)
    ),
    RECENCY: lambda known: None if known.exclude_seen else Recency(known.transition.popularity),
    TRANSITION_CONTENT: TransitionContent.fit,
    ITEM_TRANSITION: lambda known: known.transition,
    POPULARITY: lambda known: known.transition.popularity,
}
"""By name what fits each, in the order of reports. None depends on a model or its seed.

One that has nothing to say fits as `None`: a history is no bar where it may not be recommended.
"""

__all__ = [
    "BASELINES",
    "Baseline",
    "ItemTransition",
    "Known",
    "Popularity",
    "Recency",
    "RecencyTransition",
    "TransitionContent",
]
