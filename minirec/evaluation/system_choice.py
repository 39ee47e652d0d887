"""Chooses how a system fuses its sources, on users whose next item is known.

They must be neither those that a figure is reported on nor those that the sources were fitted on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from minirec.evaluation.metrics import metrics_at
from minirec.evaluation.ranks import item_ranks
from minirec.evaluation.weight_choice import choose_weights
from minirec.recommend.gated import Candidates, Facts, Gate, fit_gate
from minirec.recommend.ranked_lists import RankedLists
from minirec.recommend.system import System, gated, pooled

PENALTIES = (0.001, 0.01, 0.1)
HIDDEN = "hidden layer"
Fit = Callable[[Candidates, Int[np.ndarray, " n"]], Gate]
_FOLDS = 4
_MOST = 50_000  # users that a gate is fitted on
_FEWEST = 200  # users whose target is a candidate: fewer tell little of some forty weights


def choose_system(
    lists: Mapping[str, RankedLists],
    histories: Sequence[Int[np.ndarray, " H"]],
    facts: Facts | None,
    target: Int[np.ndarray, " n"],
    *,
    k: int = 10,
) -> System:
    """Returns the pool with the best weights, and a gate where that ranks better.

    A gate is judged on users that it was not fitted on: a quarter of them at a time, by gates that
    were fitted on the others. The penalty with the best NDCG@k is taken, with a hidden layer where
    that is better still, and the gate only where it is above the pool, which is judged on the users
    that chose it. What is returned is fitted on all users, or on 50,000 of them.

    Args:
        lists: by name of the source.
        histories: item ids a user, oldest first, those alone that `facts` knows.
        facts: of the items; None: a pool will do.
        target: the item that came next.
        k: length of the lists that are judged.

    Raises:
        ValueError: as `choose_weights` does.
    """
    pool = choose_weights(pooled(lists), target, k=k)
    if facts is None:
        return System(pool)
    chosen = np.arange(len(target))
    if len(chosen) > _MOST:  # Evenly spread: a gate's candidates take 17 KB a user, several times.
        chosen = np.linspace(0, len(target) - 1, _MOST).astype(np.int64)
        lists = {
            name: RankedLists(one.item[chosen], one.probability[chosen])
            for name, one in lists.items()
        }
    target = np.asarray(target)[chosen]
    found = gated(lists, [histories[int(row)] for row in chosen], facts)
    if int((found.item == target[found.user]).sum()) < _FEWEST:
        return System(pool)
    fits = {f"{penalty:g}": functools.partial(fit_gate, penalty=penalty) for penalty in PENALTIES}
    name = f"ndcg@{k}"
    held_out = {kind: _held_out(fit, found, target, k) for kind, fit in fits.items()}
    best = max(fits, key=lambda kind: (round(held_out[kind][name], 12), kind))
    fits[f"{best}, {HIDDEN}"] = functools.partial(_deep, fit=fits[best])
    held_out[f"{best}, {HIDDEN}"] = _held_out(fits[f"{best}, {HIDDEN}"], found, target, k)
    best = max(fits, key=lambda kind: round(held_out[kind][name], 12))
    if held_out[best][name] <= pool.metrics[name]:
        return System(pool)
    return System(pool, fits[best](found, target), best, held_out)


def _deep(found: Candidates, target: Int[np.ndarray, " n"], fit: Fit) -> Gate:
    from minirec.recommend.gated.hidden import with_hidden_layer  # It imports JAX.

    return with_hidden_layer(fit(found, target), found, target)


def _held_out(
    fit: Fit, found: Candidates, target: Int[np.ndarray, " n"], k: int
) -> dict[str, float]:
    """Returns the metrics of each user by a gate that was fitted on the other three quarters."""
    fold = np.arange(found.num_users) % _FOLDS
    ranks = np.empty(found.num_users, np.int64)
    for number in range(_FOLDS):
        others, these = fold != number, fold == number
        gate = fit(_of(found, others), target[others])
        ranks[these] = item_ranks(gate.rank(_of(found, these), k).item, target[these])
    return metrics_at(ranks, (k,))


def _of(found: Candidates, users: Bool[np.ndarray, " n"]) -> Candidates:
    """Returns the candidates of some users, who are counted from 0 anew."""
    kept, number = users[found.user], np.cumsum(users) - 1
    return dataclasses.replace(
        found,
        user=number[found.user[kept]],
        item=found.item[kept],
        features=found.features[kept],
        num_users=int(users.sum()),
    )
