"""Watch lists to prompts and answers: `python -m launch.tasks --config=anime --workdir=W`.

Writes W/tasks (llm_prep_train.jsonl, llm_prep_train.parquet, llm_prep_summary.json,
llm_prep_manifest.json) from an SQLite file of lists and a file of SIDs, and says what each of its
eight stages found. What lies there stays where it is of the same config and files;
`--config.tasks.rebuild=True` makes it anew.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from launch.wiring import program
from pipelines.text.watch_config import WatchConfig
from pipelines.text.watch_tasks import STAGES, make_tasks

TASKS = "tasks"


def tasks_folder(job: program.Job) -> Path:
    """Returns where the rows lie."""
    return job.workdir / TASKS


def main(job: program.Job) -> None:
    """Makes the rows and prints how many of which.

    Raises:
        ValueError: the config has no tasks, or what `make_tasks` raises.
    """
    if "tasks" not in job.config:
        raise program.UsageError(
            f"config {job.config.name!r} has no block `tasks`; use one such as --config=anime"
        )
    begin = time.monotonic()

    def progress(stage: int, text: str) -> None:
        seconds = time.monotonic() - begin
        said = f"{stage}/{len(STAGES)} {STAGES[stage - 1]}"
        print(f"{said}: {text} ({seconds:.1f} s)" if text else f"{said} …", file=sys.stderr)

    config = WatchConfig.from_mapping(job.config.tasks.to_dict())
    summary = make_tasks(config, tasks_folder(job), progress)
    for task, counts in summary["tasks"].items():
        print(f"task_{task}", " ".join(f"{name}={value}" for name, value in counts.items()))
    for part in ("catalogue", "lists", "held_out", "left_out"):
        print(part, " ".join(f"{name}={value}" for name, value in summary[part].items()))
    print(f"rows={summary['rows']}")
    print(f"wrote {tasks_folder(job)}")


if __name__ == "__main__":
    program.run(main)
