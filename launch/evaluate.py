"""Evaluation: `python -m launch.evaluate --config=amazon_beauty --workdir=W`.

Searches for every user of the split with the run's best checkpoint. Beside the model stand its item
table, that table over what the search has found ("model_head"), the system (which validation users
choose first; W/runs/NAME/fusion.json keeps the choice) and the baselines. Writes W/runs/NAME/report
(report_valid for `--split=valid`) and prints `hr@10=…`, `ndcg@10=…`, …, `invalid=0`, which are the
model's, then `system_hr@10=…` and so on.

Of a language model of one's own it measures perplexity and bits a byte instead, beside an
interpolated Kneser-Ney model and mixed with it: `bits_per_byte=…`, `word_perplexity=…`, ….
"""

from __future__ import annotations

import sys
import time

from absl import flags

from launch.wiring import baselines, fusion_run, made_with, program
from launch.wiring.experiment import experiment_of
from launch.wiring.reporting import REPORTS, Searched, make_report
from launch.wiring.run_summary import write_summary
from launch.wiring.search import search_progress
from minirec import files
from minirec.recommend.rescored import rescored
from minirec.recommend.sources import CONTENT, ITEM_TRANSITION, MODEL, MODEL_HEAD, SYSTEM
from minirec.reports import Report, metric_lines
from minirec.reports.text_report import TextReport
from minirec.training.processes import is_first

SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "Users to evaluate on.")


def run_evaluation(job: program.Job, split: str = "test") -> Report | TextReport | None:
    """Evaluates the job's run and writes its report.

    Returns:
        The report, in the first process; None in the others.

    Raises:
        ValueError: the data, the SIDs and the run do not belong together.
        FileNotFoundError: a step before this one has not run.
        OSError: no report could be written.
    """
    experiment = experiment_of(job.config)
    if experiment.report is not None:
        report = experiment.report(job, split)
    else:
        searched = (experiment.search or search)(job, split)
        report = make_report(job, searched) if is_first() else None
    if not is_first():
        return None
    write_summary(job)
    return report


def search(job: program.Job, split: str) -> Searched:
    """Returns what the run recommends to the users of a split, in every process."""
    started = time.monotonic()
    run = experiment_of(job.config).load(job)
    made_with.check_report(job, job.run / REPORTS[split] / "report.json")
    files.check_writable(job.run / REPORTS[split])
    like = baselines.neighbours(job, run.catalogue.prepared)
    ranker = run.ranker(neighbours=like)
    system = fusion_run.run_system(job, run, ranker)
    max_users = job.config.evaluate.test_users
    num_users = len(run.catalogue.prepared.views(split))
    with search_progress(min(num_users, max_users or num_users)) as advance:
        rankings = fusion_run.rank_split(run, ranker, split, max_users, advance)
    # The search's own list stands in `ranked`, and the count's is filled up by popularity.
    lists = {
        name: found
        for name, found in rankings.lists.items()
        if name not in (MODEL, ITEM_TRANSITION, CONTENT)
    }
    if ranker.item_ranker is not None:
        num_known = len(ranker.train_count)
        lists[MODEL_HEAD] = rescored(rankings.ranked, rankings.lists[MODEL], num_known)
    if system is not None:
        lists[SYSTEM] = fusion_run.fused(rankings, system, ranker, ranker.length)
    codes = run.codes(rankings.ranked)
    transition = ranker.transition
    return Searched(split, run, rankings.ranked, codes, lists, system, transition, like, started)


def evaluate(job: program.Job, split: str = "test") -> None:
    """Evaluates and prints the metrics, a line each."""
    report = run_evaluation(job, split)
    if report is None:
        return
    is_text = isinstance(report, TextReport)
    for line in report.lines if is_text else metric_lines(report):
        print(line)
    for note in report.notes:
        print(note, file=sys.stderr)
    if not is_text and report.chosen_note:
        print(f"note: {report.chosen_note}", file=sys.stderr)
    print(f"report={job.run / REPORTS[split] / 'index.html'}")


def main(job: program.Job) -> None:
    """Evaluates on the users that `--split` names."""
    evaluate(job, SPLIT.value)


if __name__ == "__main__":
    program.run(main, many_processes=True)
