"""The whole chain in one command: `python -m launch.quickstart --workdir=W`.

log → prepare → make_sids → train → constrained beam search → report, by default on a generated
catalogue (`--config=quickstart`). Run again, it goes on where it stopped.
"""

from __future__ import annotations

from rich.console import Console

from launch import evaluate, make_sids, prepare, train
from launch.wiring import program
from minirec.reports import Report, metric_table


def main(job: program.Job) -> None:
    """Runs every step and shows the model beside the baselines."""
    console = Console()
    for title, step in (
        ("1/4 prepare: log to records", prepare.main),
        ("2/4 make_sids: item text to semantic IDs", make_sids.make),
    ):
        console.rule(title, align="left")
        step(job)
    console.rule("3/4 train", align="left")
    if train.run_training(job).interrupted:
        console.print("stopped; the same command goes on from here")
        return
    console.rule("4/4 evaluate: constrained beam search over the test users", align="left")
    report = evaluate.run_evaluation(job)
    if isinstance(report, Report):
        console.print(metric_table(report))
    print(f"report: {job.run / 'report' / 'index.html'}")


if __name__ == "__main__":
    program.run(main, config="quickstart", workdir="quickstart")
