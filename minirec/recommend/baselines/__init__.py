"""The baselines that stand beside every model, a file each.

All are fitted on training interactions, and on what is written about the items. Ties go by
popularity, and ties in popularity to the lower item id, so that the lists are the same everywhere.
"""

from collections.abc import Callable, Mapping

from minirec.recommend.baselines.co_occurrence import CoOccurrence
from minirec.recommend.baselines.item_transition import ItemTransition
from minirec.recommend.baselines.known import Baseline, Known
from minirec.recommend.baselines.popularity import Popularity
from minirec.recommend.baselines.recency import Recency
from minirec.recommend.baselines.recency_transition import RecencyTransition
from minirec.recommend.baselines.transition_content import TransitionContent
from minirec.recommend.sources import (
    CO_OCCURRENCE,
    ITEM_TRANSITION,
    POPULARITY,
    RECENCY,
    RECENCY_TRANSITION,
    REPEATING,
    TRANSITION_CONTENT,
)

BASELINES: Mapping[str, Callable[[Known], Baseline]] = {
    RECENCY_TRANSITION: lambda known: RecencyTransition(known.transition),
    RECENCY: lambda known: Recency(known.transition.popularity),
    TRANSITION_CONTENT: TransitionContent.fit,
    ITEM_TRANSITION: lambda known: known.transition,
    CO_OCCURRENCE: lambda known: CoOccurrence(
        *known.lists(), known.transition.num_items, known.transition.popularity
    ),
    POPULARITY: lambda known: known.transition.popularity,
}
"""By name what fits each, in the order of reports. None depends on a model or its seed."""


def baselines_for(*, has_order: bool, repeats: bool) -> dict[str, Callable[[Known], Baseline]]:
    """Returns the baselines that stand beside a model.

    The transition counts stand there at any rate, as counts of neighbours in a drawn order.

    Args:
        has_order: whether histories have an order; where they have none, co_occurrence counts.
        repeats: whether a user's own history may be recommended, so that it is a bar of its own.
    """
    left_out = ({CO_OCCURRENCE} if has_order else set()) | (set() if repeats else REPEATING)
    return {name: fit for name, fit in BASELINES.items() if name not in left_out}


__all__ = [
    "BASELINES",
    "Baseline",
    "CoOccurrence",
    "ItemTransition",
    "Known",
    "Popularity",
    "Recency",
    "RecencyTransition",
    "TransitionContent",
    "baselines_for",
]
