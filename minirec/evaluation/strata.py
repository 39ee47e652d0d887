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
USER_KNOWN, USER_NEW = "user_known", "user_new"
TARGET_AGAIN, TARGET_FIRST = "target_again", "target_first"


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


def user_strata(known: Bool[np.ndarray, " n"]) -> dict[str, Bool[np.ndarray, " n"]]:
    """Returns the users whom training knows, and the others; nothing where all are of one kind.

    Args:
        known: whether training has a sequence of each user.
    """
    return _both(USER_KNOWN, USER_NEW, known)


def repeat_strata(
    histories: Sequence[Int[np.ndarray, " H"]], target: Int[np.ndarray, " n"]
) -> dict[str, Bool[np.ndarray, " n"]]:
    """Returns whose target stands in the history, and whose does not; nothing where none does.

    Args:
        histories: item ids.
        target: the item that came next.
    """
    again = [item in history for history, item in zip(histories, target.tolist(), strict=True)]
    return _both(TARGET_AGAIN, TARGET_FIRST, np.array(again, bool))


def _both(
    name: str, other: str, inside: Bool[np.ndarray, " n"]
) -> dict[str, Bool[np.ndarray, " n"]]:
    return {name: inside, other: ~inside} if inside.any() and not inside.all() else {}


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
