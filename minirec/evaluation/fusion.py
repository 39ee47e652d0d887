"""Fuses the lists of several recommenders into one ranking, by a linear opinion pool.

Every source gives probabilities of the user's next item; the pool is their weighted mean (M. Stone,
"The opinion pool", Annals of Mathematical Statistics 32, 1961), a probability again. What a source
does not list counts as 0 there. The weights are chosen on users whose next item is known, which
must be neither those that a figure is reported on nor those that the sources were fitted on.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float, Float64, Int, Int32, Int64

from minirec.evaluation.fusion_weights import FusionWeights, check_weights, steps_to_one
from minirec.evaluation.metrics import metrics_at, ndcg_gains
from minirec.evaluation.ranked_lists import RankedLists
from minirec.evaluation.ranks import NOT_FOUND

_SCALE = 1e12  # scores that agree to 12 decimals differ only by the order of a floating-point sum
_MAX_SUM = 1 + 1e-3  # of one list's probabilities, which float16 or float32 may have rounded
_MAX_WEIGHTINGS = 100_000
_FUSE_BLOCK = 512
_CHOOSE_BLOCK = 64  # a block of candidates stays in the processor's cache over all weightings


def fuse(lists: Mapping[str, RankedLists], weights: Mapping[str, float], k: int) -> RankedLists:
    """Returns the `k` items a user that have the most weighted probability, best first.

    The score of an item is `sum_s weight_s * p_s(item)`, where `p_s` is 0 if source `s` does not
    list it. Scores that are equal when rounded to 12 decimals are a tie. Ties go to the item that
    the earliest source lists (in the order of `lists`, whatever its weight and the probability
    there); among the items of one source to the one at the lower place. Items of score 0 come last,
    in the same order, so that lists are filled.

    Memory, beside the arguments and the result, follows a block of users.

    Args:
        lists: by name of the source. They may differ in length and need not be best first.
        weights: by name of the source, at least 0, together 1.
        k: length of the fused lists.

    Returns:
        item `[n, k]`, -1 where a user's sources list no more items; probability `[n, k]` float64,
        the scores.

    Raises:
        ValueError: `k` below 1; no sources; weights that are not one a source, >= 0, together 1;
            sources that answer different numbers of users; arrays that are not as `RankedLists`
            describes them. The message names the source and the value.
    """
    num_users = _check_lists(lists)
    check_weights(weights, lists)
    _check_k(k)
    weighting = np.array([weights[name] for name in lists], np.float64)
    fused = RankedLists(np.full((num_users, k), -1, np.int32), np.zeros((num_users, k)))
    for start in range(0, num_users, _FUSE_BLOCK):
        rows = np.arange(start, min(start + _FUSE_BLOCK, num_users))
        pool = _pool(lists, rows)
        score = pool.score(weighting)
        key = np.where(pool.item >= 0, np.rint(score * _SCALE), -1)
        order = np.argsort(-key, axis=1, kind="stable")[:, :k]
        fused.item[rows, : order.shape[1]] = np.take_along_axis(pool.item, order, axis=1)
        fused.probability[rows, : order.shape[1]] = np.take_along_axis(score, order, axis=1)
    return fused


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
    num_users = _check_lists(lists)
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
    _check_k(k)
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Pool:
    """What a block of users can be recommended, in the order that decides ties.

    Attributes:
        item: `[b, W]`, the sources' lists one after the other, each item where it stands first; -1
            elsewhere.
        probability: `[S, b, W]`, what each source gives to the item; 0 where it does not list it.
    """

    item: Int32[np.ndarray, "b W"]
    probability: Float64[np.ndarray, "S b W"]

    def score(self, weighting: Float64[np.ndarray, " S"]) -> Float64[np.ndarray, "b W"]:
        """Returns the weighted sums: source by source, so that they are the same in any block."""
        score = weighting[0] * self.probability[0]
        for weight, probability in zip(weighting[1:], self.probability[1:], strict=True):
            if weight:
                score += weight * probability
        return score


def _pool(lists: Mapping[str, RankedLists], rows: Int64[np.ndarray, " b"]) -> _Pool:
    listed = np.concatenate([source.item[rows] for source in lists.values()], axis=1)
    given = np.concatenate([source.probability[rows] for source in lists.values()], axis=1)
    widths = [source.item.shape[1] for source in lists.values()]
    source_of = np.repeat(np.arange(len(lists)), widths)
    order = np.argsort(listed, axis=1, kind="stable")
    ordered = np.take_along_axis(listed, order, axis=1)
    new = np.ones(ordered.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # A stable sort leaves equal items in the order of the lists: the first of a run decides.
    start = np.maximum.accumulate(np.where(new, np.arange(ordered.shape[1]), 0), axis=1)
    row, place = np.nonzero(ordered >= 0)
    column, first = order[row, place], order[row, start[row, place]]
    item = np.full(listed.shape, -1, np.int32)
    item[row, first] = ordered[row, place]
    probability = np.zeros((len(lists), *listed.shape))
    probability[source_of[column], row, first] = given[row, column]
    return _Pool(item, probability)


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
        pool = _pool(lists, rows)
        every, at = np.nonzero(pool.item == target[rows, None])
        columns = np.arange(pool.item.shape[1])
        # Scaled scores are whole, so that a half puts whoever wins a tie above the target.
        half = 0.5 * ((pool.item >= 0) & (columns < at[:, None]))
        ranks = np.empty((len(weightings), len(rows)), np.int32)
        for weighting, rank in zip(weightings, ranks, strict=True):
            key = pool.score(weighting)
            key *= _SCALE
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


def _check_lists(lists: Mapping[str, RankedLists]) -> int:
    """Returns the number of users; raises ValueError as `fuse` says."""
    if not lists:
        raise ValueError("lists: no sources; expected at least one")
    num_users, first = -1, ""
    for name, source in lists.items():
        _check_source(name, source.item, source.probability)
        if num_users < 0:
            num_users, first = len(source.item), name
        if len(source.item) != num_users:
            raise ValueError(
                f"{name}: {len(source.item)} users, but {first} has {num_users}; all sources must "
                "answer the same users"
            )
    return num_users


def _check_source(
    name: str, item: Int[np.ndarray, "n K"], probability: Float[np.ndarray, "n K"]
) -> None:
    if item.ndim != 2 or not np.issubdtype(item.dtype, np.integer):
        raise ValueError(
            f"{name}: item is {item.dtype} {list(item.shape)}; expected integers [users, places]"
        )
    if probability.shape != item.shape or not np.issubdtype(probability.dtype, np.floating):
        raise ValueError(
            f"{name}: probability is {probability.dtype} {list(probability.shape)}; expected "
            f"floats of item's shape, {list(item.shape)}"
        )
    for wrong, right in (
        (item < -1, "expected an item id, or -1 for none"),
        # A NaN is no number to compare with, so the question is what is right.
        (~((probability >= 0) & (probability <= _MAX_SUM)), "expected a probability in [0, 1]"),
        ((item < 0) & (probability != 0), "there is no item, so that it must be 0"),
    ):
        if wrong.any():
            row, place = np.argwhere(wrong)[0]
            raise ValueError(
                f"{name}: user {row}, place {place}: item {item[row, place]}, probability "
                f"{probability[row, place]}; {right}"
            )
    total = probability.sum(axis=1, dtype=np.float64)
    if total.size and total.max() > _MAX_SUM:
        raise ValueError(
            f"{name}: user {int(total.argmax())}: probabilities sum to {total.max():g}; a list's "
            "must sum to 1 at most (items that share a semantic ID share its probability)"
        )
    ordered = np.sort(item, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row, place = np.argwhere(twice)[0]
        raise ValueError(f"{name}: user {row}: item {ordered[row, place]} stands in the list twice")


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k: {k}; a list needs at least one place")
