"""What a run recommends: by each of its sources, and by all of them together ("the system").

The sources are the search over SIDs ("model"), the model's item table ("item_head", where it has
one), the transition count and the likeness of the items' text. How their lists are fused, the run's
validation users choose; W/runs/NAME/fusion.json keeps the choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launch.wiring import baselines, choices
from launch.wiring.experiment import Run
from launch.wiring.program import Job
from minirec import files
from minirec.evaluation import choose_system
from minirec.recommend import RankedLists, System
from minirec.recommend.content import Neighbours
from minirec.recommend.gated import Facts
from minirec.recommend.ranker import Ranker, Rankings
from minirec.training import best_step
from minirec.training.processes import is_first
from minirec.training.run_folder import CONFIG_FILE

FUSION = "fusion.json"
_WEIGHTS = "fusion"
_VERSION = 2  # of what is chosen; 1 was a pool alone


def kept_system(job: Job) -> System | None:
    """Returns the system that the run has chosen for its best model, if it has.

    Of several processes all must call this.

    Raises:
        ValueError: a damaged file.
        FileNotFoundError: the run has saved no model yet.
    """
    path = job.run / FUSION
    found = choices.kept(path, _WEIGHTS, _made_of(job))
    return None if found is None else System.from_json(found, where=str(path))


def rank_split(
    run: Run,
    ranker: Ranker,
    split: str,
    max_users: int,
    on_batch: Callable[[int], None] | None = None,
) -> Rankings:
    """Returns every source's lists for the users of a split; `max_users` 0 takes all."""
    batches, prepared = run.split_batches(split, max_users), run.catalogue.prepared
    return ranker.rank(batches, lambda rows: prepared.histories(split, rows), on_batch=on_batch)


def run_system(job: Job, run: Run, ranker: Ranker) -> System | None:
    """Returns the run's system, chosen on its validation users where that is not done yet.

    None where there are no such users to choose on. Of several processes all must call this, and
    the first writes; where it cannot, as on a read-only disk, it says so, and the choice, which is
    always the same, holds for this call.

    Args:
        job: whose run.
        run: the run, with the catalogue that it was trained with.
        ranker: the run's.
    """
    return system_by(
        job, run, ranker.facts, lambda max_users: rank_split(run, ranker, "valid", max_users)
    )


def system_by(
    job: Job, run: Run, facts: Facts | None, rank_valid: Callable[[int], Rankings]
) -> System | None:
    """Returns `run_system`'s choice of sources that somebody else asks.

    Args:
        job: whose run.
        run: the run.
        facts: what a gate may know of the items; None: there is no gate.
        rank_valid: returns every source's lists for so many validation users.
    """
    if not run.is_trained:  # There is no run to keep the choice with.
        return None
    if (kept := kept_system(job)) is not None:
        return kept
    prepared = run.catalogue.prepared
    if not len(prepared.views("valid")):
        return None
    rankings = rank_valid(job.config.evaluate.fusion_users)
    target = prepared.targets("valid")[rankings.ranked.row]
    chosen = choose_system(rankings.lists, rankings.histories, facts, target)
    of = _made_of(job)
    if is_first():
        choices.keep(job.run / FUSION, _WEIGHTS, of, chosen.to_json(), "the system's weights")
    return chosen


def _made_of(job: Job) -> dict[str, Any]:
    """Returns what a choice depends on, but for what a run keeps for itself.

    It reads checkpoints, which processes do together: of several all must call this.

    Raises:
        FileNotFoundError: the run has saved no model yet.
    """
    config = job.config
    return {
        "version": _VERSION,
        "run": files.sha256(job.run / CONFIG_FILE),
        "checkpoint": best_step(job.run),
        "search": config.search.to_dict(),
        "fusion_users": config.evaluate.fusion_users,
        "seed": config.seed,
    }


def chosen_system(
    job: Job, run: Run, load_trained: Callable[[], Run]
) -> tuple[System | None, Neighbours | None]:
    """Returns how a run's sources are fused, and which items are like which where that counts.

    The system is None where no validation users could choose it.

    Args:
        job: whose run recommends.
        run: the run, perhaps with items that came after training.
        load_trained: loads the run with the items that it was trained with.
    """
    system = kept_system(job) if run.is_trained else None
    gated = run.is_trained and (system is None or system.gate is not None)
    neighbours = baselines.neighbours(job, run.catalogue.prepared) if gated else None
    if system is None and run.is_trained:  # Items that came later have no part in the choice.
        trained = load_trained()
        system = run_system(job, trained, trained.ranker(neighbours=neighbours))
    return system, neighbours


def fused(rankings: Rankings, system: System, ranker: Ranker, length: int) -> RankedLists:
    """Returns the system's lists."""
    return system.rank(rankings.lists, rankings.histories, ranker.facts, length)


def record(system: System | None) -> dict[str, Any]:
    """Returns what a report says of the fusion."""
    return {} if system is None else {"fusion": system.to_json()}
