"""`run_summary.json`: what a run was and what it reached, without any time."""

from __future__ import annotations

from typing import Any

from launch.wiring.program import Job
from launch.wiring.reporting import REPORTS
from minirec import files
from minirec.training import read_metrics, without_wall_clock

SUMMARY = "run_summary.json"
_OF_REPORT = (
    "split",
    "fine_tuned",
    "users",
    "items",
    "invalid",
    "dead_beams",
    "metrics",
    "chosen_on",
    "first_losses",
)


def write_summary(job: Job) -> None:
    """Writes the summary from the files that the run has left so far.

    Equal configs and seeds give equal bytes on one machine: no times, and no
    folders but those that the config names.
    """
    config = job.config.to_dict()
    config.pop("wandb")
    files.write_json(
        job.run / SUMMARY,
        {
            "name": config["name"],
            "seed": config["seed"],
            "training": _training(job),
            "evaluation": {
                split: _evaluation(job, folder)
                for split, folder in REPORTS.items()
                if (job.run / folder / "report.json").is_file()
            },
            "config": config,
        },
    )


def _training(job: Job) -> dict[str, Any] | None:
    """Returns how training ended and its losses; None where nothing was trained."""
    lines = [without_wall_clock(line) for line in read_metrics(job.run)]
    if not lines:
        return None
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    final = lines[-1] if lines[-1]["kind"] == "final" else None
    return {"end": final, "losses": losses, "evaluations": evaluations}


def _evaluation(job: Job, folder: str) -> dict[str, Any]:
    names = ("report.json", "predictions.json")
    files.check_folder(job.run / folder, names, remedy="evaluate the run again")
    report = files.read_json(job.run / folder / "report.json", dict)
    predictions = files.sha256(job.run / folder / "predictions.json")
    shown = {name: report[name] for name in _OF_REPORT if name in report}
    return shown | {"predictions_sha256": predictions}
