"""Evaluation: `python -m launch.evaluate --config=amazon_beauty --workdir=W`.

Searches for every user of the split with the run's best checkpoint. Beside the model stand its item
table, the system (whose weights validation users choose first; W/runs/NAME/fusion.json keeps them)
and the two baselines. Writes W/runs/NAME/report (report_valid for `--split=valid`) and prints
`hr@10=…`, `ndcg@10=…`, …, `invalid=0`, which are the model's, then `system_hr@10=…` and so on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from absl import flags
from jax.sharding import Mesh
from jaxtyping import Int
from ml_collections import ConfigDict

from kernels.trie import Trie
from launch.wiring import made_with, parts, program, ranking
from minirec import files
from minirec.decoding.ranking import RankedUsers, rank_users
from minirec.evaluation import KS, evaluate_lists, item_ranks, pair_strata
from minirec.files.schema import COUNT, WHOLE, check
from minirec.recommend import FusionWeights, ItemTransition, RankedLists
from minirec.reports import Catalogue, Example, Report, curves_of, metric_lines, write_report
from minirec.reports.report import MODEL, SYSTEM
from minirec.sids import SidTable
from minirec.training import read_metrics
from minirec.training.processes import is_first
from minirec.training.progress import ProgressBar
from minirec.training.run_folder import CONFIG_FILE, read_config
from pipelines.batches.eval_batches import chosen_rows
from pipelines.prepared import Prepared

SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "Users to evaluate on.")
_NUM_EXAMPLES = 8


class Shown(Protocol):
    """What a report needs of a catalogue."""

    @property
    def prepared(self) -> Prepared:
        """The records."""
        ...

    @property
    def table(self) -> SidTable:
        """The items' SIDs."""
        ...


@dataclasses.dataclass(frozen=True)
class Searched:
    """What the search found for the users of a split.

    Attributes:
        split: "valid" or "test".
        catalogue: the items.
        ranked: the users' recommendations.
        codes: the beams' SIDs, `[n, M, L]`, -1 where a beam is dead.
        started: when the work began, by `time.monotonic`.
        lists: what each source of the run recommends, the system and its sources but for the
            search and the baselines; empty where there is the search alone.
        weights: how the system weights its sources; None where there is no system.
        transition: the transition count, where it has been fitted already.
    """

    split: str
    catalogue: Shown
    ranked: RankedUsers
    codes: Int[np.ndarray, "n M L"]
    started: float
    lists: Mapping[str, RankedLists] = dataclasses.field(default_factory=dict)
    weights: FusionWeights | None = None
    transition: ItemTransition | None = None


def run_evaluation(job: program.Job, split: str = "test") -> Report:
    """Evaluates the job's run and writes its report; of several processes, the first does.

    Raises:
        ValueError: the data, the SIDs and the run do not belong together.
        FileNotFoundError: a step before this one has not run.
    """
    return make_report(job, search(job, split))


def search(job: program.Job, split: str) -> Searched:
    """Returns what the run's best model recommends, in every process.

    Raises:
        ValueError: the data, the SIDs and the run do not belong together.
        FileNotFoundError: a step before this one has not run.
        OSError: no report could be written.
    """
    started = time.monotonic()
    config = job.config
    mesh = parts.make_mesh(config)
    catalogue, model = parts.load_run(job, mesh=mesh)
    made_with.check_report(job, job.run / parts.REPORTS[split] / "report.json")
    files.check_writable(job.run / parts.REPORTS[split])
    ranker = ranking.Ranker(config, catalogue, model, mesh)
    weights = ranking.run_weights(job, ranker)
    max_users = config.evaluate.test_users
    num_users = len(catalogue.prepared.views(split))
    with search_progress(min(num_users, max_users or num_users)) as advance:
        rankings = ranker.rank_split(split, max_users, advance)
    lists = {}
    if ranking.ITEM_HEAD in rankings.lists:
        lists[ranking.ITEM_HEAD] = rankings.lists[ranking.ITEM_HEAD]
    if weights is not None:
        lists[SYSTEM] = ranking.fused(rankings, weights, ranker.length)
    codes = beam_codes(rankings.ranked, catalogue)
    return Searched(
        split, catalogue, rankings.ranked, codes, started, lists, weights, ranker.transition
    )


@contextlib.contextmanager
def search_progress(num_users: int) -> Iterator[Callable[[int], None]]:
    """Yields what to call with the number of users of each batch that was searched for."""
    searched, started = 0, time.monotonic()
    with ProgressBar(num_users, enabled=is_first()) as bar:

        def advance(users: int) -> None:
            nonlocal searched
            searched += users
            rate = searched / (time.monotonic() - started)
            bar.update("search", searched, f"{rate:,.0f} users/s")

        yield advance


def search_batches(
    config: ConfigDict, model: Any, batches: Any, trie: Trie, mesh: Mesh | None
) -> RankedUsers:
    """Returns what the search that the config describes finds, and shows how far it is."""
    with search_progress(batches.num_views) as advance:
        return rank_users(
            model,
            batches,
            parts.make_searcher(config, mesh),
            trie,
            exclude_seen=config.search.exclude_seen,
            on_batch=advance,
        )


def make_report(
    job: program.Job,
    searched: Searched,
    *,
    first_losses: Mapping[str, Sequence[float]] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Report:
    """Sets the baselines beside what the search found, writes the report and returns it.

    Args:
        job: whose report.
        searched: what the search found.
        first_losses: see `Report`.
        extra: more entries for `report.json`.
    """
    config, split = job.config, searched.split
    catalogue, ranked = searched.catalogue, searched.ranked
    exclude_seen = config.search.exclude_seen
    prepared = catalogue.prepared
    target = prepared.targets(split)[ranked.row]
    histories = prepared.histories(split, ranked.row)
    codes = catalogue.table.codes
    ranked_sids = searched.codes
    transition = searched.transition or ItemTransition(
        *prepared.training_items(), prepared.num_items
    )
    baselines = {"popularity": transition.popularity, "item_transition": transition}
    ks = [k for k in KS if k <= config.search.num_beams]
    bootstrap = {"seed": config.seed, "num_resamples": config.evaluate.resamples}
    evaluations = {
        MODEL: evaluate_lists(
            ranked.item, target, codes, ranked_sids=ranked_sids, ks=ks, **bootstrap
        )
    }
    for name, lists in searched.lists.items():
        evaluations[name] = evaluate_lists(lists.item, target, codes, ks=ks, **bootstrap)
    length = ranking.list_length(config, prepared)
    for name, baseline in baselines.items():
        lists = baseline.recommend(histories, length, exclude_seen=exclude_seen)
        evaluations[name] = evaluate_lists(lists, target, codes, ks=ks, **bootstrap)
    curves = curves_of(read_metrics(job.run))
    report = Report(
        name=job.run.name,
        dataset=config.name,
        split=split,
        evaluations=evaluations,
        target=target,
        ranked_sids=ranked_sids,
        catalogue=Catalogue(codes, catalogue.table.codebook_sizes, prepared.train_count),
        exclude_seen=exclude_seen,
        config=config.to_dict(),
        seed=config.seed,
        num_resamples=config.evaluate.resamples,
        seconds=time.monotonic() - searched.started,
        curves=curves,
        chosen_on=chosen_on(job, searched, validated=bool(curves.validation)),
        strata=pair_strata(transition, histories, target),
        examples=examples(ranked, target, histories, prepared, split),
        first_losses=first_losses or {},
        health=prepared.manifest.get("health"),
        extra=ranking.record(searched.weights) | dict(extra or {}),
    )
    write_report(job.run / parts.REPORTS[split], report)
    return report


def chosen_on(job: program.Job, searched: Searched, *, validated: bool) -> dict[str, int]:
    """Returns how many of the users that were searched for chose what each recommender is.

    Args:
        job: whose run.
        searched: what the search found.
        validated: whether the run's best checkpoint is the best on validation users.
    """
    if searched.split != "valid":
        return {}
    num_views = len(searched.catalogue.prepared.views("valid"))

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
        found = {name: number for name in (MODEL, *searched.lists) if name != SYSTEM and number}
    if searched.weights is not None:
        number = among(job.config.evaluate.fusion_users, job.config.seed)
        found |= {SYSTEM: number} if number else {}
    return found


def beam_codes(ranked: RankedUsers, catalogue: parts.Catalogue) -> np.ndarray:
    """Returns the beams' codes `[n, M, L]`, -1 where a beam is dead."""
    codes = np.full(ranked.sid.shape, -1, np.int32)
    codes[~ranked.dead] = catalogue.vocab.decode(ranked.sid[~ranked.dead])
    return codes


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


def main(job: program.Job) -> None:
    """Prints the metrics, a line each."""
    searched = search(job, SPLIT.value)
    if not is_first():
        return
    report = make_report(job, searched)
    for line in metric_lines(report):
        print(line)
    for note in report.notes:
        print(note, file=sys.stderr)
    if report.chosen_note:
        print(f"note: {report.chosen_note}", file=sys.stderr)
    print(f"report={job.run / parts.REPORTS[SPLIT.value] / 'index.html'}")


if __name__ == "__main__":
    program.run(main, many_processes=True)
