"""A small grid of settings: `python -m launch.sweep --config=NAME --grid=… --workdir=W`.

`--grid='model.dropout=0.2,0.4;seed=0,1,2'` runs every combination; `--grid=settings.json` a list of
settings (`launch/sweep/grid.py`). Runs that differ in their seed alone are one row of the table.
All are evaluated on validation users unless `--sweep_split=test` asks for the test ones.

Writes W/sweeps/NAME (`--run`, default: the config's name): results.jsonl, a line a finished run;
failed.jsonl; table.md, plot.svg and index.html, best setting first, after every run; of the test
split test_table.md and so on. Data are prepared once, SIDs made once a seed and setting of theirs.

One run at a time, each in a process of its own. The same command again leaves out what is
finished, goes on with what was stopped and tries again what failed. SIGTERM or Ctrl-C ends it after
the run at hand has saved, another Ctrl-C at once. Exit code 1: some run failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from launch.sweep import sweep_run
from launch.sweep.grid import Setting, read_grid
from launch.sweep.results import FAILURES, RECORD, RESULTS, check_scores, read_lines, write_lines
from launch.sweep.sweep_run import SweepJob
from launch.wiring import made_with, program
from launch.wiring.experiment import experiment_of, recommending
from launch.wiring.reporting import REPORTS
from minirec import files
from minirec.files.schema import NUMBER
from minirec.recommend.sources import (
    FEED,
    ITEM_HEAD,
    MODEL,
    MODEL_HEAD,
    RANKER,
    SYSTEM,
    TWO_TOWER,
)
from minirec.reports.log_health import tied_targets
from minirec.reports.seeds import best_first, setting_row
from minirec.reports.sweep import Sweep, markdown, write_sweep
from minirec.training import TrainResult, compare, read_metrics
from minirec.training.metrics_log import FINAL, METRICS_FILE
from minirec.training.run_folder import OVERWRITE_FILE, locked, overwrite_once

_GRID = flags.DEFINE_string(
    "grid", None, "Fields and their values, FIELD=VALUE,VALUE;FIELD=…, or a .json of settings."
)
_SPLIT = flags.DEFINE_enum(
    "sweep_split", "valid", ["valid", "test"], "Users that the runs of a sweep are compared on."
)
_BY = flags.DEFINE_enum(
    "sweep_by",
    None,
    [MODEL, ITEM_HEAD, MODEL_HEAD, SYSTEM, FEED, RANKER, TWO_TOWER],
    "Recommender whose NDCG@10 sorts the table; what the run is about where none is named.",
)
_REMEDY = "put the file back, or --overwrite the sweep with all its runs"
# A run's record tells these by what lies there; before there is a run, their paths must do.
_TOLD_BY_PATH = ("family", "model.checkpoint")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        setting: its setting.
        seed: its seed.
        job: its config and where its parts lie.
    """

    setting: Setting
    seed: int
    job: SweepJob

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.job.run.name


def plan(job: program.Job, settings: Sequence[Setting], folder: Path) -> list[Run]:
    """Returns the runs of a sweep in order; equal configs have equal folders, whatever the grid.

    Args:
        job: the sweep's job, with the config that the settings change.
        settings: what to run.
        folder: the sweep's folder.
    """
    runs = []
    for setting in settings:
        for seed in setting.seeds:
            config = setting.config(job.config, seed)
            plain = _plain(config, setting.fields)
            data = _digest(plain["data"])
            sids = _digest([plain["data"], plain.get("sids"), seed])
            said = {field.rpartition(".")[2]: value for field, value in setting.fields.items()}
            label = setting.name or ",".join(f"{name}={value}" for name, value in said.items())
            slug = re.sub(r"[^\w.=,-]+", "_", label, flags=re.ASCII)[:60].strip("_.")
            name = "-".join(filter(None, (slug, f"seed={seed}", _digest(plain))))
            runs.append(
                Run(
                    setting,
                    seed,
                    SweepJob(
                        config,
                        folder,
                        folder / "runs" / name,
                        prepared_folder=folder / "data" / data / "prepared",
                        sids_folder=folder / "data" / data / f"sids-{sids}",
                    ),
                )
            )
    return runs


def run_sweep(
    job: program.Job,
    settings: Sequence[Setting],
    *,
    split: str = "valid",
    by: str = "model",
    execute: Callable[[Path], int],
    stopped: Callable[[], bool] = lambda: False,
) -> Sweep:
    """Does the runs that are not finished yet, one after the other, and writes what they reached.

    Args:
        job: the sweep's job; its run's name is the sweep's.
        settings: what to run.
        split: "valid" or "test".
        by: the recommender whose NDCG@10 sorts the table.
        execute: does the run that a file of `sweep_run.write_spec` describes; returns an exit code
            of `sweep_run`.
        stopped: whether to stop before the next run.

    Raises:
        ValueError: the sweep's folder belongs to another config, or there is no recommender `by`.
        RunFolderError: another process works there.
    """
    recommending(job, "launch.sweep")  # Another family is said before anything is made.
    folder = job.workdir / "sweeps" / job.run.name
    with locked(folder):
        files.clear_leftovers(folder, recursive=True)
        runs = plan(job, settings, folder)
        _claim(folder, job, runs, split)
        results = read_lines(folder / RESULTS)
        failures = read_lines(folder / FAILURES, {"error": str})
        sweep = _summary(job, runs, split, by, results, failures)
        write_sweep(folder, sweep)
        for number, run in enumerate(runs, 1):
            key = (run.name, split)
            report = run.job.run / REPORTS[split] / "report.json"
            if key in results and report.is_file():
                continue
            if stopped():
                break
            print(f"run {number} of {len(runs)}: {run.name}", flush=True)
            error_path = run.job.run / sweep_run.ERROR
            error_path.unlink(missing_ok=True)
            for lines in (results, failures):
                lines.pop(key, None)
            code = execute(sweep_run.write_spec(run.job, split))
            if code == sweep_run.STOPPED:
                break
            if code == sweep_run.FINISHED:
                results[key] = _result(run, split, report)
            else:
                failures[key] = _about(run, split) | {"error": _error(error_path, code)}
                print(f"failed: {files.shown(failures[key]['error'])}", file=sys.stderr)
            write_lines(folder / RESULTS, results)
            write_lines(folder / FAILURES, failures)
            sweep = _summary(job, runs, split, by, results, failures)
            write_sweep(folder, sweep)
    return sweep


def _claim(folder: Path, job: program.Job, runs: Sequence[Run], split: str) -> None:
    """Makes the folder that of a sweep around this config.

    Raises:
        ValueError: it is that of another; the message names the fields.
    """
    path, record = folder / RECORD, {"config": _plain(job.config)}

    def remove() -> None:
        # The record goes last: as long as something of the old sweep is there, so is its name.
        for entry in sorted(folder.iterdir(), key=lambda entry: entry == path):
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in (".lock", OVERWRITE_FILE):
                entry.unlink()

    def finished() -> bool:
        results = read_lines(folder / RESULTS)
        return all((run.name, split) in results for run in runs)

    work = record | {"runs": sorted(run.name for run in runs), "split": split}
    overwrite_once(folder, work, asked=job.overwrite, finished=finished, remove=remove)
    if path.is_file():
        differences = compare(files.read_sealed(path, _REMEDY), record)
        if differences:
            lines = [f"  {name}: {old} there, {new} now" for name, old, new in differences]
            raise program.UsageError(
                f"{path}: this folder holds a sweep around another config:\n"
                + "\n".join(lines)
                + "\nGo on with that config, name another sweep with --run, or --overwrite it "
                "with all its runs"
            )
    else:
        files.write_sealed(path, record)


def _summary(
    job: program.Job,
    runs: Sequence[Run],
    split: str,
    by: str,
    results: Mapping[tuple[str, str], Mapping[str, Any]],
    failures: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Sweep:
    changed = dict.fromkeys(field for run in runs for field in run.setting.fields)
    by_setting: dict[int, list[Run]] = {}
    for run in runs:
        by_setting.setdefault(id(run.setting), []).append(run)
    rows = []
    for group in by_setting.values():
        flat = group[0].job.config.to_dict()
        rows.append(
            setting_row(
                [results[run.name, split] for run in group if (run.name, split) in results],
                fields={field: _value(flat, field) for field in changed},
                name=group[0].setting.name,
                num_wanted=len(group),
                errors=[
                    f"seed {run.seed}: {failures[run.name, split]['error']}"
                    for run in group
                    if (run.name, split) in failures
                ],
            )
        )
    try:
        rows = best_first(rows, by)
    except ValueError as error:
        raise program.UsageError(f"--sweep_by: {error}") from error
    finished = [results[run.name, split] for run in runs if (run.name, split) in results]
    targets = [tied_targets(line["health"], split) for line in finished if line.get("health")]
    config = job.config.to_dict()
    return Sweep(
        job.run.name, job.config.name, split, by, rows, config, tuple(dict.fromkeys(targets))
    )


def _about(run: Run, split: str) -> dict[str, Any]:
    commit, changed = _commit()
    return {
        "run": run.name,
        "name": run.setting.name,
        "fields": dict(run.setting.fields),
        "seed": run.seed,
        "split": split,
        "commit": commit,
        "uncommitted_changes": changed,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _result(run: Run, split: str, report_path: Path) -> dict[str, Any]:
    """Returns the line of a finished run."""
    files.check_folder(report_path.parent, [report_path.name], remedy="run the sweep again")
    report = files.read_json(report_path, {"seconds": NUMBER})
    check_scores(report, str(report_path))
    lines = read_metrics(run.job.run)
    if not lines or lines[-1]["kind"] != FINAL:
        raise ValueError(f"{run.job.run / METRICS_FILE}: its last line must be of kind {FINAL!r}")
    final = TrainResult.from_record(lines[-1])
    return _about(run, split) | {
        "users": report["users"],
        "metrics": report["metrics"],
        "intervals": report["intervals"],
        "chosen_on": report.get("chosen_on", {}),
        "health": report.get("health"),
        "steps": final.step,
        "best_step": final.best_step,
        "train_seconds": round(final.seconds, 1),
        "evaluate_seconds": report["seconds"],
    }


def _error(path: Path, code: int) -> str:
    """Returns in a line why a run failed."""
    if path.is_file():
        message = path.read_text(encoding="utf-8", errors="replace").strip().partition("\n\n")[0]
        return textwrap.shorten(message, 400, placeholder=" …")
    if code < 0:
        return f"killed by signal {-code}; 9 is often a lack of memory"
    return f"exit code {code}"


def _commit() -> tuple[str | None, bool | None]:
    """Returns the commit of this code and whether files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # A package may be installed below a checkout of something else.
        git("ls-files", "--error-unmatch", "__main__.py")
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD"), bool(changes)
    return None, None


def _plain(config: ConfigDict, varied: Iterable[str] = ()) -> dict[str, Any]:
    """Returns what of a config makes two runs the same, as JSON knows it.

    Args:
        config: a run's.
        varied: fields that its grid changes, which tell its runs apart whatever they change.
    """
    plain = json.loads(json.dumps(config.to_dict()))
    kept = {*varied, *_TOLD_BY_PATH}
    return made_with.without(plain, [f for f in made_with.CHANGE_NOTHING if f not in kept])


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _value(config: Mapping[str, Any], field: str) -> Any:
    value: Any = config
    for part in field.split("."):
        value = value[part]
    return value


def main(job: program.Job) -> None:
    """Runs the sweep and prints its table; exits with 1 where a run failed."""
    if not _GRID.value:
        raise program.UsageError(
            "--grid is missing: FIELD=VALUE,VALUE;FIELD=…, or the path of a .json of settings"
        )
    settings = read_grid(_GRID.value, job.config)
    with sweep_run.ChildProcess() as execute:
        sweep = run_sweep(
            job,
            settings,
            split=_SPLIT.value,
            by=_BY.value or experiment_of(job.config).main,
            execute=execute,
            stopped=lambda: execute.stop_requested,
        )
    print(markdown(sweep), end="")
    print(f"page={job.workdir / 'sweeps' / job.run.name / sweep.file_name('index.html')}")
    if sweep.num_finished + sweep.num_failed < sweep.num_wanted:
        again = [
            argument
            for argument in sys.argv[1:]
            if argument.lstrip("-").partition("=")[0] != "overwrite"
        ]
        print(
            f"stopped with {sweep.num_finished} of {sweep.num_wanted} runs finished; go on with\n"
            f"  {shlex.join(['python', '-m', 'launch.sweep', *again])}",
            file=sys.stderr,
        )
    if sweep.num_failed:
        sys.exit(1)


if __name__ == "__main__":
    program.run(main)
