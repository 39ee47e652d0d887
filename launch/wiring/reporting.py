"""The report of a run: the model beside what it is measured against."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from launch.wiring import baselines, fusion_run
from launch.wiring.experiment import Run, list_length, list_size
from launch.wiring.program import Job
from minirec.decoding.ranking import RankedUsers
from minirec.evaluation import (
    KS,
    evaluate_lists,
    item_ranks,
    pair_strata,
    repeat_strata,
    user_strata,
)
from minirec.files.schema import COUNT, WHOLE, check
from minirec.recommend import ItemTransition, RankedLists, System
from minirec.recommend.content import Neighbours
from minirec.recommend.sources import MODEL, SYSTEM
from minirec.reports import Catalogue, Example, Report, curves_of, write_report
from minirec.training import read_metrics
from minirec.training.run_folder import CONFIG_FILE, read_config
from pipelines.batches.eval_batches import chosen_rows
from pipelines.prepared import Prepared

REPORTS = {"test": "report", "valid": "report_valid"}
"""The report's folder by split: one on validation users stands beside the one on test users."""

_NUM_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Searched:
    """What was found for the users of a split.

    Attributes:
        split: "valid" or "test".
        run: what recommends.
        ranked: what its search found.
        codes: the beams' SIDs, `[n, M, L]`, -1 where a beam is dead.
        lists: what its other sources recommend and the system, without the baselines.
        system: how the sources are fused; None where there is no system.
        transition: the transition count.
        neighbours: which items are like which in text.
        started: when the work began, by `time.monotonic`.
        main: what `ranked` is called in the report.
    """

    split: str
    run: Run
    ranked: RankedUsers
    codes: Int[np.ndarray, "n M L"]
    lists: Mapping[str, RankedLists]
    system: System | None
    transition: ItemTransition
    neighbours: Neighbours
    started: float
    main: str = MODEL


def make_report(job: Job, searched: Searched) -> Report:
    """Sets the baselines beside what was found, writes the report and returns it."""
    config, split = job.config, searched.split
    run, ranked, transition = searched.run, searched.ranked, searched.transition
    catalogue = run.catalogue
    exclude_seen = config.search.exclude_seen
    prepared = catalogue.prepared
    target = prepared.targets(split)[ranked.row]
    histories = prepared.histories(split, ranked.row)
    codes = catalogue.table.codes
    fitted = baselines.fit(job, run, transition, searched.neighbours)
    ks = [k for k in KS if k <= list_size(config)]
    # Without an order a user is asked for several items of one list, which stand and fall together.
    of_users = prepared.views(split)[ranked.row, 0]
    users = None if prepared.has_order else of_users
    bootstrap = {"seed": config.seed, "num_resamples": config.evaluate.resamples, "users": users}
    evaluations = {
        searched.main: evaluate_lists(
            ranked.item, target, codes, ranked_sids=searched.codes, ks=ks, **bootstrap
        )
    }
    for name, lists in searched.lists.items():
        evaluations[name] = evaluate_lists(lists.item, target, codes, ks=ks, **bootstrap)
    length = list_length(config, prepared.num_items)
    for name, baseline in fitted.by_name.items():
        lists = baseline.recommend(histories, length, exclude_seen=exclude_seen)
        evaluations[name] = evaluate_lists(lists, target, codes, ks=ks, **bootstrap)
    curves = curves_of(read_metrics(job.run))
    report = Report(
        name=job.run.name,
        dataset=config.name,
        split=split,
        evaluations=evaluations,
        target=target,
        ranked_sids=searched.codes,
        catalogue=Catalogue(codes, catalogue.table.codebook_sizes, prepared.train_count),
        exclude_seen=exclude_seen,
        config=config.to_dict(),
        seed=config.seed,
        num_resamples=config.evaluate.resamples,
        seconds=time.monotonic() - searched.started,
        curves=curves,
        users=users,
        chosen_on=chosen_on(job, searched, fitted, validated=bool(curves.validation)),
        strata=pair_strata(transition, histories, target)
        | user_strata(np.isin(of_users, prepared.train_sequences[:, 0]))
        | repeat_strata(histories, target),
        examples=examples(ranked, target, histories, prepared, split),
        first_losses=run.first_losses,
        health=prepared.manifest.get("health"),
        extra=fusion_run.record(searched.system) | {"baselines": fitted.chosen} | dict(run.about),
    )
    write_report(job.run / REPORTS[split], report)
    return report


def chosen_on(
    job: Job, searched: Searched, fitted: baselines.Fitted, *, validated: bool
) -> dict[str, int]:
    """Returns how many of the users that were searched for chose what each recommender is.

    Args:
        job: whose run.
        searched: what the search found.
        fitted: the baselines.
        validated: whether the run's best checkpoint is the best on validation users.
    """
    if searched.split != "valid":
        return {}
    num_views = len(searched.run.catalogue.prepared.views("valid"))

    def among(max_users: int, seed: int) -> int:
        chose = chosen_rows("valid", num_views, max_users or None, seed)
        return int(np.isin(searched.ranked.row, chose).sum())

    found = {}
    if validated:
        trained = read_config(job.run)
        shape = {"config": {"evaluate": {"valid_users": COUNT}, "seed": WHOLE}}
        check(trained, shape, str(job.run / CONFIG_FILE))
        before = trained["config"]
        number = among(before["evaluate"]["valid_users"], before["seed"])
        found = {
            name: number for name in (searched.main, *searched.lists) if name != SYSTEM and number
        }
    number = int(np.isin(searched.ranked.row, fitted.rows).sum())
    found |= {name: number for name in fitted.chosen if number}
    if searched.system is not None:
        number = among(job.config.evaluate.fusion_users, job.config.seed)
        fused = SYSTEM if searched.main == MODEL else searched.main
        found |= {fused: number} if number else {}
    return found


def examples(
    ranked: RankedUsers,
    target: np.ndarray,
    histories: list[np.ndarray],
    prepared: Prepared,
    split: str,
) -> list[Example]:
    """Returns a few users, evenly spread over the split, as a person can read them."""
    titles = prepared.titles
    views = prepared.views(split)
    raw_user_ids = prepared.users["raw_user_id"].to_list()
    ranks = item_ranks(ranked.item, target)
    chosen = np.linspace(0, len(target) - 1, min(_NUM_EXAMPLES, len(target))).astype(int)
    return [
        Example(
            user=raw_user_ids[views[ranked.row[n], 0]],
            history=[titles[item] for item in histories[n][-5:]],
            target=titles[target[n]],
            recommended=[titles[item] for item in ranked.item[n][:5] if item >= 0],
            rank=int(ranks[n]),
        )
        for n in chosen
    ]
