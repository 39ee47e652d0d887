"""What a feed's run recommends to given histories: by all sources, by its ranker, by its towers.

Such a history is a list of items: when and how the user met them nobody says, so that all count as
looked at just now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

from launch.wiring import baselines, feed, fusion_run
from launch.wiring.experiment import list_length
from launch.wiring.feed_shop import action_of
from launch.wiring.program import Job, UsageError
from minirec.recommend import RankedLists
from minirec.recommend.ranker import Rankings
from minirec.recommend.sources import FEED, RANKER, TWO_TOWER

RANKINGS = (FEED, RANKER, TWO_TOWER)
"""What `--rank_by` may be for a feed's run, the usual one first."""

Recommended = tuple[Int[np.ndarray, " n"], np.ndarray]


def recommender(
    job: Job, *, top: int, rank_by: str
) -> tuple[feed.FeedRun, Callable[..., Iterator[Recommended]]]:
    """Returns the job's run, and what recommends by it.

    That takes histories, item ids oldest first, and `allowed [N]`, the items that anybody may get,
    and yields each user's items, best first, with the logarithms of their shares.

    Args:
        job: whose run.
        top: items a user.
        rank_by: one of `RANKINGS`.

    Raises:
        UsageError: another ranking.
        ValueError: there is no such run, or it was trained with other data or settings.
    """
    if rank_by not in RANKINGS:
        raise UsageError(f"--rank_by={rank_by}: a feed's run ranks by {', '.join(RANKINGS)}")
    run = feed.load(job)
    prepared = run.catalogue.prepared
    view = action_of(job.config, prepared, "view") or 0
    length = max(top, list_length(job.config, prepared.num_items))
    sources = feed.Sources(run, baselines.neighbours(job, prepared), length=length)
    system = None
    if rank_by == FEED:
        # The validation users chose with lists as long as an evaluation's.
        chosen_by = feed.Sources(run, sources.like)
        system = fusion_run.system_by(
            job, run, sources.facts, lambda most: chosen_by.rank("valid", most)
        )

    def recommend(
        histories: Sequence[Int[np.ndarray, " h"]], allowed: Bool[np.ndarray, " N"]
    ) -> Iterator[Recommended]:
        size = job.config.evaluate.batch_size
        for start in range(0, len(histories), size):
            some = [np.asarray(one, np.int32) for one in histories[start : start + size]]
            found = sources.rank_histories(some, allowed, view, size)
            yield from _items(_ranked(found, some), len(some))

    def _ranked(found: Rankings, some: Sequence[np.ndarray]) -> RankedLists:
        if system is None:  # The towers, or no validation users could choose.
            return found.lists[TWO_TOWER if rank_by == TWO_TOWER else RANKER]
        return system.rank(found.lists, some, sources.facts, length)

    return run, recommend


def _items(lists: RankedLists, number: int) -> Iterator[Recommended]:
    for row in range(number):
        kept = lists.item[row] >= 0
        with np.errstate(divide="ignore"):
            yield lists.item[row][kept], np.log(lists.probability[row][kept])
