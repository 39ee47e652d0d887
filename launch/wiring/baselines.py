"""What stands beside every model, fitted on a run's records: see `minirec.recommend.BASELINES`.

The weights that validation users choose are kept in W/runs/NAME/baselines.json; which items are
like which, for all runs on the same records, in W/content/, beside these.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from launch.wiring import choices
from launch.wiring.experiment import Run
from launch.wiring.program import Job
from minirec import files
from minirec.evaluation import choose_weight
from minirec.files.schema import NUMBER, check
from minirec.recommend import Baseline, ItemTransition, Known, baselines_for
from minirec.recommend.baselines.known import Weighted
from minirec.recommend.content import Neighbours, content_rows, nearest
from minirec.training.processes import is_first
from pipelines.batches.eval_batches import chosen_rows
from pipelines.prepared import Prepared

CONTENT = "content"
CHOSEN = "baselines.json"
_CHOICE = {"weight": NUMBER, "ndcg@10": {str: NUMBER}}
_NAME = "baselines"
_VERSION = 1  # of what is chosen and of how items are compared
_SEED = 0  # of the users that choose: a baseline is the same whatever a run's seed
_REMEDY = "remove the folder: it is made anew"


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """The baselines of a run.

    Attributes:
        by_name: in the order of reports.
        chosen: by name, the weight that validation users chose, and their NDCG@10 with each.
        rows: the validation users that chose.
    """

    by_name: Mapping[str, Baseline]
    chosen: Mapping[str, dict[str, Any]]
    rows: Int[np.ndarray, " n"]


def fit(job: Job, run: Run, transition: ItemTransition, like: Neighbours) -> Fitted:
    """Returns the baselines of a run.

    Args:
        job: whose run.
        run: the run.
        transition: the count, fitted on its records.
        like: which items are like which.

    Raises:
        ValueError: a damaged file.
    """
    config, prepared = job.config, run.catalogue.prepared
    num_views, max_users = len(prepared.views("valid")), config.evaluate.fusion_users or None
    rows = chosen_rows("valid", num_views, max_users, _SEED) if num_views else np.zeros(0, int)
    before = kept(job, prepared) if run.is_trained else None
    chosen: dict[str, dict[str, Any]] = {}

    def choose(name: str, baseline: Weighted, weights: Sequence[float]) -> float:
        if before is not None and name in before:
            chosen[name] = before[name]
        elif len(rows):
            histories, target = prepared.histories("valid", rows), prepared.targets("valid")[rows]
            weight, ndcg = choose_weight(
                baseline, weights, histories, target, exclude_seen=config.search.exclude_seen
            )
            chosen[name] = {"weight": weight, "ndcg@10": ndcg}
        else:  # There is nobody to ask.
            chosen[name] = {"weight": weights[len(weights) // 2], "ndcg@10": {}}
        return chosen[name]["weight"]

    known = Known(transition, like, choose, prepared.training_items)
    asked = baselines_for(has_order=prepared.has_order, repeats=not config.search.exclude_seen)
    fitted = {name: fit_one(known) for name, fit_one in asked.items()}
    if run.is_trained and chosen != before:
        of = _depends_on(job, prepared)
        choices.keep(job.run / CHOSEN, _NAME, of, chosen, "the baselines' weights")
    return Fitted(fitted, chosen, rows)


def kept(job: Job, prepared: Prepared) -> dict[str, Any] | None:
    """Returns the weights that the run keeps, as `Fitted.chosen` has them; None where it has none.

    Raises:
        ValueError: a damaged file.
    """
    path = job.run / CHOSEN
    found = choices.kept(path, _NAME, _depends_on(job, prepared))
    if found is not None:
        check(found, {str: _CHOICE}, f"{path}: {_NAME}")
    return found


def _depends_on(job: Job, prepared: Prepared) -> dict[str, Any]:
    return {
        "prepared": prepared.manifest["fingerprint"],
        "exclude_seen": job.config.search.exclude_seen,
        "fusion_users": job.config.evaluate.fusion_users,
        "version": _VERSION,
    }


def neighbours(job: Job, prepared: Prepared) -> Neighbours:
    """Returns which items are like which, from W/content/ where that is of these records.

    Raises:
        ValueError: a damaged file.
    """
    folder = job.prepared.parent / CONTENT
    of = {"prepared": prepared.manifest["fingerprint"], "version": _VERSION}
    if (found := _kept_neighbours(folder, of)) is not None:
        return found
    items = prepared.items
    found = nearest(content_rows(items["title"].to_list(), items["attributes"].to_list()))
    if not is_first() or _kept_neighbours(folder, of) is not None:
        return found  # Another program has been faster.
    try:
        found.save(folder, of)
    except OSError as error:
        print(
            f"note: {folder} cannot be written ({error.strerror or error}): which items are like "
            "which was found in memory and will be found again each time",
            file=sys.stderr,
        )
    return found


def _kept_neighbours(folder: Path, of: dict[str, Any]) -> Neighbours | None:
    if not folder.is_dir():
        return None
    try:
        return Neighbours.load(folder, of, remedy=_REMEDY)
    except (files.DamagedError, FileNotFoundError):
        # Another program may have been replacing it just then.
        return Neighbours.load(folder, of, remedy=_REMEDY) if folder.is_dir() else None
