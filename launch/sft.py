"""A language model on SID tasks: `python -m launch.sft --config=sid_sft --run_mode=train_eval`.

A short face of `launch.train` and `launch.evaluate`, which say more: `train` fine-tunes (the same
command again goes on where a killed run stopped) and writes the best model, adapters merged, as a
Hugging Face folder W/runs/NAME/model. `eval` answers every user of the split by constrained beam
search; without a run it evaluates `config.model.checkpoint` as it is. Where W is empty, the data
are prepared and SIDs made first.
"""

from __future__ import annotations

import functools
import signal
import sys

from absl import flags

from launch import evaluate, make_sids, prepare, tasks, train
from launch.wiring import program, wandb_log
from launch.wiring.catalogue import SIDS_REPORT
from minirec.training.processes import first_alone, first_says, is_first
from pipelines.text.watch_writing import SUMMARY

_FAMILIES = ("language", "watch")
_RUN_MODE = flags.DEFINE_enum(
    "run_mode", "train_eval", ["train", "eval", "train_eval"], "What to do."
)


def main(job: program.Job, run_mode: str = "train_eval", split: str = "test") -> None:
    """Does what `run_mode` says and prints how it went."""
    # Until the loop takes over, which saves first, there is nothing to save.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if job.config.family not in _FAMILIES:
        raise program.UsageError(
            f"config {job.config.name!r} is of the family {job.config.family!r}: use launch.train, "
            "--config=sid_sft or --config=anime"
        )
    wandb_log.check(job.config)
    _make_what_is_missing(job)
    if "train" in run_mode:
        result = train.run_training(job)
        if is_first():
            train.print_result(result)
        if result.interrupted:
            return
    if "eval" in run_mode:
        evaluate.evaluate(job, split)


def _make_what_is_missing(job: program.Job) -> None:
    steps = (
        (job.prepared / "manifest.json", prepare.main),
        (job.sids / SIDS_REPORT, make_sids.make),
    )
    if "tasks" in job.config:
        steps = ((tasks.tasks_folder(job) / SUMMARY, tasks.main), *steps)
    for path, step in steps:
        if not first_says(path.is_file()):
            first_alone(functools.partial(step, job))


def _as_asked(job: program.Job) -> None:
    if "train" in _RUN_MODE.value:
        train.require_backend()
    main(job, _RUN_MODE.value, evaluate.SPLIT.value)


if __name__ == "__main__":
    program.run(_as_asked, many_processes=True, workdir="W")
