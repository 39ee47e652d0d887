"""Fuses the lists of several recommenders into one ranking, by a linear opinion pool.

Every source gives probabilities of the user's next item; the pool is their weighted mean (M. Stone,
"The opinion pool", Annals of Mathematical Statistics 32, 1961), a probability again. What a source
does not list counts as 0 there. The weights are chosen on users whose next item is known, which
must be neither those that a figure is reported on nor those that the sources were fitted on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float64, Int, Int32, Int64

from minirec.recommend.fusion_weights import check_weights
from minirec.recommend.ranked_lists import RankedLists

SCALE = 1e12  # scores that agree to 12 decimals differ only by the order of a floating-point sum
_MAX_SUM = 1 + 1e-3  # of one list's probabilities, which float16 or float32 may have rounded
_FUSE_BLOCK = 512


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
    num_users = check_lists(lists)
    check_weights(weights, lists)
    check_k(k)
    weighting = np.array([weights[name] for name in lists], np.float64)
    fused = RankedLists(np.full((num_users, k), -1, np.int32), np.zeros((num_users, k)))
    for start in range(0, num_users, _FUSE_BLOCK):
        rows = np.arange(start, min(start + _FUSE_BLOCK, num_users))
        pool = pool_of(lists, rows)
        score = pool.score(weighting)
        key = np.where(pool.item >= 0, np.rint(score * SCALE), -1)
        order = np.argsort(-key, axis=1, kind="stable")[:, :k]
        fused.item[rows, : order.shape[1]] = np.take_along_axis(pool.item, order, axis=1)
        fused.probability[rows, : order.shape[1]] = np.take_along_axis(score, order, axis=1)
    return fused


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
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


def pool_of(lists: Mapping[str, RankedLists], rows: Int64[np.ndarray, " b"]) -> Pool:
    """Returns the pool of some users' lists."""
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
    return Pool(item, probability)


def check_lists(lists: Mapping[str, RankedLists]) -> int:
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
        # NaN compares false with all, so the question is what is right.
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


def check_k(k: int) -> None:
    """Raises ValueError unless a list can have `k` places."""
    if k < 1:
        raise ValueError(f"k: {k}; a list needs at least one place")
