"""Chooses the weights of a fusion on users whose next item is known.

They must be neither those that a figure is reported on nor those that the sources were fitted on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int, Int32, Int64

from minirec.evaluation.metrics import metrics_at, ndcg_gains
from minirec.evaluation.ranks import NOT_FOUND
from minirec.recommend.baselines.known import Weighted
from minirec.recommend.baselines.lists import Histories
from minirec.recommend.fusion import SCALE, check_k, check_lists, pool_of
from minirec.recommend.fusion_weights import FusionWeights, steps_to_one
from minirec.recommend.ranked_lists import RankedLists

_MAX_WEIGHTINGS = 100_000
_CHOOSE_BLOCK = 64  # a block of candidates stays in the processor's cache over all weightings


def choose_weights(
    lists: Mapping[str, RankedLists],
    target: Int[np.ndarray, " n"],
    *,
    step: float = 0.05,
    k: int = 10,
) -> FusionWeights:
    """Returns the weights whose fused ranking has the best NDCG@k on these users.

    All weightings of whole steps are tried: 231 for three sources and a step of 0.05. Among equals
    (to 12 decimals) the one nearest to equal weights is taken, then the one that gives more to the
    earlier source. The metrics are those of `fuse` followed by `item_ranks` and `metrics_at`.

    Args:
        lists: by name of the source, as for `fuse`.
        target: the item that came next.
        step: must divide 1.
        k: length of the fused lists.

    Raises:
        ValueError: as for `fuse`; no users, targets that are negative, not whole or not one a user;
            a step that does not divide 1, or one that makes more than 100,000 weightings.
    """
    num_users = check_lists(lists)
    target = np.asarray(target)
    if target.shape != (num_users,) or not np.issubdtype(target.dtype, np.integer):
        raise ValueError(
            f"target: {target.dtype} {list(target.shape)}; expected integers [{num_users}], one a "
            "user of the lists"
        )
    if num_users == 0:
        raise ValueError("target: no users; weights need at least one to be chosen on")
    if int(target.min()) < 0:
        raise ValueError(
            f"target: {int(target.min())} of user {int(target.argmin())}; must be >= 0"
        )
    check_k(k)
    grid = _simplex(step, len(lists))
    weightings = grid / grid[0, 0]  # the first weighting gives all to the first source
    counts = np.zeros((len(grid), k), np.int64)
    for _, ranks in _rank_targets(lists, target, weightings):
        weighting, user = np.nonzero(ranks < k)
        places = weighting * k + ranks[weighting, user]
        counts += np.bincount(places, minlength=counts.size).reshape(counts.shape)
    ndcg = np.round((counts * ndcg_gains(np.arange(k), k)).sum(axis=1) / num_users, 12)
    # The squares' sum grows with the distance to equal weights; the grid falls by its first weight.
    squares = (grid**2).sum(axis=1)
    best = int(np.lexsort((np.arange(len(grid)), squares, -ndcg))[0])
    chosen = {name: float(weight) for name, weight in zip(lists, weightings[best], strict=True)}
    return FusionWeights(
        weights=chosen,
        metrics=_metrics(lists, target, weightings[best], k),
        sources={
            name: _metrics({name: source}, target, np.ones(1), k) for name, source in lists.items()
        },
        num_users=num_users,
        step=float(step),
        k=k,
    )


def choose_weight(
    baseline: Weighted,
    weights: Sequence[float],
    histories: Histories,
    target: Int[np.ndarray, " n"],
    *,
    exclude_seen: bool,
    k: int = 10,
) -> tuple[float, dict[str, float]]:
    """Returns the weight of a baseline with the best NDCG@k on these users, and each one's NDCG@k.

    Among equals (to 12 decimals) the earliest is taken.

    Args:
        baseline: what has the weight.
        weights: to choose from.
        histories: item ids a user, oldest first.
        target: the item that came next, of one user at least.
        exclude_seen: leave out every item of the user's history.
        k: length of the lists.
    """
    ranks = baseline.ranks(histories, target, weights, exclude_seen=exclude_seen)
    found = [round(float(ndcg_gains(row, k).mean()), 12) for row in ranks]
    best = weights[int(np.argmax(found))]
    return best, {f"{weight:g}": value for weight, value in zip(weights, found, strict=True)}


def _rank_targets(
    lists: Mapping[str, RankedLists],
    target: Int[np.ndarray, " n"],
    weightings: Float64[np.ndarray, "G S"],
) -> Iterator[tuple[Int64[np.ndarray, " b"], Int32[np.ndarray, "G b"]]]:
    """Yields (users, the place of their targets under each weighting), where a list holds it."""
    found = np.zeros(len(target), bool)
    for source in lists.values():
        found |= (source.item == target[:, None]).any(axis=1)
    users = np.flatnonzero(found)
    for start in range(0, len(users), _CHOOSE_BLOCK):
        rows = users[start : start + _CHOOSE_BLOCK]
        pool = pool_of(lists, rows)
        every, at = np.nonzero(pool.item == target[rows, None])
        columns = np.arange(pool.item.shape[1])
        # Scaled scores are whole, so that a half puts whoever wins a tie above the target.
        half = 0.5 * ((pool.item >= 0) & (columns < at[:, None]))
        ranks = np.empty((len(weightings), len(rows)), np.int32)
        for weighting, rank in zip(weightings, ranks, strict=True):
            key = pool.score(weighting)
            key *= SCALE
            np.rint(key, out=key)
            own = key[every, at]
            key += half
            rank[:] = np.count_nonzero(key > own[:, None], axis=1)
        yield rows, ranks


def _metrics(
    lists: Mapping[str, RankedLists],
    target: Int[np.ndarray, " n"],
    weighting: Float64[np.ndarray, " S"],
    k: int,
) -> dict[str, float]:
    rank = np.full(len(target), NOT_FOUND, np.int32)
    for rows, ranks in _rank_targets(lists, target, weighting[None]):
        rank[rows] = ranks[0]
    return metrics_at(rank, (k,))


def _simplex(step: float, num_sources: int) -> Int64[np.ndarray, "G S"]:
    """Returns all ways to share the steps from 0 to 1 among the sources, the first's falling."""
    steps = steps_to_one(step)
    number = math.comb(steps + num_sources - 1, num_sources - 1)
    if number > _MAX_WEIGHTINGS:
        raise ValueError(
            f"step: {step} makes {number:,} weightings of {num_sources} sources; at most "
            f"{_MAX_WEIGHTINGS:,}, so take a larger step"
        )
    # Bars between stars: each choice of places for the bars is one way.
    bars = itertools.combinations(range(steps + num_sources - 1), num_sources - 1)
    inner = np.array(list(bars), np.int64).reshape(number, num_sources - 1)
    ends = np.full((number, 1), steps + num_sources - 1)
    grid = np.diff(np.concatenate([np.full((number, 1), -1), inner, ends], axis=1), axis=1) - 1
    return grid[::-1]
