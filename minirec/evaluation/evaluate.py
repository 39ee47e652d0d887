"""One recommender's lists for all users of a split, scored at item level and at SID level."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32, Int64

from minirec.evaluation import intervals, metrics, ranks

LEVELS = ("item", "sid")
"""A hit is the target itself ("item"), or any item with the target's SID ("sid")."""

SHOWN = 10
"""Length of the list that coverage and the popularity of recommended items are counted on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """How well one recommender's lists hold the targets.

    Attributes:
        ranks: by level, `[n]`: place of each user's target from 0, -1 where it was not found.
        metrics: by level, `{"hr@10": …, "ndcg@10": …}`.
        intervals: the same keys, `[low, high]` by bootstrap over users.
        coverage: share of the catalogue that stands in anyone's first ten items.
        recommended: `[N]`, in how many users' first ten each item stands.
        invalid: SIDs shown that no item has; 0 for a constrained search.
        dead_beams: beams that ended without a valid SID.
    """

    ranks: dict[str, Int32[np.ndarray, " n"]]
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, list[float]]]
    coverage: float
    recommended: Int64[np.ndarray, " N"]
    invalid: int
    dead_beams: int

    @property
    def num_users(self) -> int:
        """n, the number of users."""
        return len(self.ranks["item"])


def evaluate_lists(
    ranked_items: Int[np.ndarray, "n K"],
    target: Int[np.ndarray, " n"],
    item_codes: Int[np.ndarray, "N L"],
    *,
    ranked_sids: Int[np.ndarray, "n M L"] | None = None,
    ks: Sequence[int] = metrics.KS,
    seed: int = 0,
    num_resamples: int = 1000,
    users: Int[np.ndarray, " n"] | None = None,
) -> Evaluation:
    """Returns the evaluation of one ranked list a user.

    A metric at `k` is given only where the lists have at least `k` places: HR@50 of a list of 20
    would be HR@20 under another name.

    Args:
        ranked_items: item ids, best first, -1 where a list ends early. To have 50 different SIDs
            in a list of items, some of which share theirs, give more than 50 items.
        target: the item that came next.
        item_codes: SID of every item of the catalogue.
        ranked_sids: codes of the beams, best first, for a recommender that ranks SIDs; a negative
            code marks a dead beam. Without it the SIDs are those of `ranked_items`, each counted
            once (see `sid_ranks`).
        ks: list lengths.
        seed: seed of the bootstrap.
        num_resamples: resamples of the bootstrap.
        users: whose each list is, where a user has several; see `bootstrap_intervals`.

    Raises:
        ValueError: shapes that do not fit, ids outside the catalogue, or no length in `ks` that the
            lists reach.
    """
    item_rank = ranks.item_ranks(ranked_items, target)
    if target.size and int(target.max()) >= len(item_codes):
        raise ValueError(
            f"target: item {int(target.max())}, but the catalogue has only {len(item_codes)} items"
        )
    if ranked_sids is None:
        dead_beams = 0
        ranked_sids = ranks.item_sids(ranked_items, item_codes)
    else:
        dead_beams = int((ranked_sids < 0).any(axis=-1).sum())
    sid_rank = ranks.sid_ranks(ranked_sids, item_codes[target])
    by_level = {"item": item_rank, "sid": sid_rank}
    width = {"item": ranked_items.shape[1], "sid": ranked_sids.shape[1]}
    reached = {level: [k for k in ks if k <= width[level]] for level in LEVELS}
    for level in LEVELS:
        if not reached[level]:
            raise ValueError(
                f"ks: {list(ks)}; the {level} lists have only {width[level]} places, so that no "
                "metric can be given"
            )
    shown = ranked_items[:, :SHOWN]
    recommended = np.bincount(shown[shown >= 0], minlength=len(item_codes)).astype(np.int64)
    return Evaluation(
        ranks=by_level,
        metrics={level: metrics.metrics_at(by_level[level], reached[level]) for level in LEVELS},
        intervals={
            level: intervals.bootstrap_intervals(
                by_level[level],
                reached[level],
                seed=seed,
                num_resamples=num_resamples,
                users=users,
            )
            for level in LEVELS
        },
        coverage=float((recommended > 0).mean()),
        recommended=recommended,
        invalid=ranks.count_invalid(ranked_sids, item_codes),
        dead_beams=dead_beams,
    )
