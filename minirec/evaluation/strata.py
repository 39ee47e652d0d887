"""Users by what training held of their next step: where a count is strong, where it has nothing.

A user's newest item and target are a pair. Where training sequences hold it, the target at most
three places behind, a count of transitions knows it; where they do not, whoever finds the target
has got it from elsewhere. Where training does not hold the target at all, only its text can tell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from minirec.evaluation.evaluate import SHOWN, Evaluation
from minirec.evaluation.metrics import metrics_at
from minirec.recommend.baselines import ItemTransition

PAIR_SEEN, PAIR_NEW, ITEM_NEW = "pair_seen", "pair_new", "item_new"


def pair_strata(
    transition: ItemTransition,
    histories: Sequence[Int[np.ndarray, " H"]],
    target: Int[np.ndarray, " n"],
) -> dict[str, Bool[np.ndarray, " n"]]:
    """Returns which users' targets followed their newest item in training, and which did not.

    Of those that did not, `item_new` are the ones whose target has no training interaction.

    Args:
        transition: fitted on the training sequences.
        histories: item ids, oldest first; a user without any is of `pair_new`.
        target: the item that came next.
    """
    newest = np.array([history[-1] if len(history) else -1 for history in histories], np.int64)
    seen = np.zeros(len(target), bool)
    has = newest >= 0
    if has.any():
        seen[has] = np.asarray(transition.transitions[newest[has], target[has]]).reshape(-1) > 0
    unsold = transition.popularity.counts[target] == 0
    return {PAIR_SEEN: seen, PAIR_NEW: ~seen, ITEM_NEW: unsold}


@dataclasses.dataclass(frozen=True)
class Stratum:
    """Some of a report's users.

    Attributes:
        users: how many.
        metrics: by recommender, HR and NDCG at 10 at item level; empty where there are no users.
    """

    users: int
    metrics: dict[str, dict[str, float]]


def metrics_by_stratum(
    evaluations: Mapping[str, Evaluation], strata: Mapping[str, Bool[np.ndarray, " n"]]
) -> dict[str, Stratum]:
    """Returns how each recommender fares in each stratum."""
    return {
        name: Stratum(
            int(inside.sum()),
            {
                recommender: metrics_at(evaluation.ranks["item"][inside], [SHOWN])
                for recommender, evaluation in evaluations.items()
                if inside.any()
            },
        )
        for name, inside in strata.items()
    }
