"""One run of a sweep, in a process of its own; `launch.sweep` starts it.

`python -m launch.sweep.sweep_run --sweep_run=W/sweeps/NAME/runs/RUN/sweep_run.json` prepares and
makes SIDs where no other run of the sweep has, trains, or goes on, and evaluates. Exit code 0:
finished, 75: stopped by a signal and saved; 1: failed, and `error.txt` beside the file says why.
"""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from launch import evaluate, make_sids, prepare, train
from launch.wiring import catalogue, child, program
from launch.wiring.reporting import REPORTS
from minirec import files
from minirec.files.schema import Kind
from minirec.training import run_folder

FINISHED, FAILED, STOPPED = 0, 1, 75
SPEC = "sweep_run.json"
_SPLIT = Kind("test or valid", lambda value: isinstance(value, str) and value in REPORTS)
_SPEC = {"config": dict, "split": _SPLIT, "workdir": str, "prepared": str, "sids": str}
ERROR = "error.txt"
_SWEEP_RUN = flags.DEFINE_string("sweep_run", None, "File that describes a run of a sweep.")


@dataclasses.dataclass(frozen=True)
class SweepJob(program.Job):
    """A job whose data and SIDs lie where all runs with the same ones find them.

    Attributes:
        prepared_folder: the prepared data.
        sids_folder: the semantic IDs.
    """

    prepared_folder: Path = Path()
    sids_folder: Path = Path()

    @property
    def prepared(self) -> Path:
        """The prepared data."""
        return self.prepared_folder

    @property
    def sids(self) -> Path:
        """The folder of the semantic IDs."""
        return self.sids_folder


def write_spec(job: SweepJob, split: str) -> Path:
    """Writes what `read_spec` reads into the run's folder and returns its path."""
    path = job.run / SPEC
    content = {
        "config": job.config.to_dict(),
        "split": split,
        "workdir": str(job.workdir),
        "prepared": str(job.prepared),
        "sids": str(job.sids),
    }
    files.write_sealed(path, content)
    return path


def read_spec(path: Path) -> tuple[SweepJob, str]:
    """Returns the job that a file describes, and the split to evaluate on."""
    content = files.read_sealed(path, "run launch.sweep again, which writes it anew", _SPEC)
    config = ConfigDict(_with_tuples(content["config"]))
    workdir, prepared, sids = (Path(content[name]) for name in ("workdir", "prepared", "sids"))
    return SweepJob(config, workdir, path.parent, False, prepared, sids), content["split"]


def execute(path: Path) -> int:
    """Does the run in this process and returns its exit code.

    What fails, for whatever reason, is told by the code and `error.txt`.
    """
    try:
        job, split = read_spec(path)
        # A run that outlived its sweep may have the folder still; it goes on where that one ends.
        with run_folder.locked(job.run, wait=True):
            pass
        # A killed run leaves neither file: they come last, and whole.
        if not (job.prepared / "manifest.json").is_file():
            prepare.main(job)
        else:  # An error where the log has changed since; else nothing is done again.
            prepare.prepare(job.config.data.to_dict(), job.prepared)
        if "sids" in job.config and not (job.sids / catalogue.SIDS_REPORT).is_file():
            make_sids.make(job)
        if train.run_training(job).interrupted:
            return STOPPED
        evaluate.run_evaluation(job, split)
    except Exception as error:
        name = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        files.write_text(path.parent / ERROR, f"{name}{error}\n\n{traceback.format_exc()}")
        return FAILED
    return FINISHED


class ChildProcess:
    """Does runs in processes of their own, so that none takes the sweep along; enter before use.

    While entered, the first SIGTERM or SIGINT makes the run at hand save and end, and is noted;
    another Ctrl-C ends it at once, and the sweep with it. A run ends with its sweep, whatever ends
    that (on Linux).

    Attributes:
        stop_requested: whether a signal came.
    """

    def __init__(self) -> None:
        self.stop_requested = False
        self._interrupted = False
        self._child: subprocess.Popen[bytes] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> ChildProcess:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def __call__(self, path: Path) -> int:
        """Does the run that a file describes and returns its exit code; negative: its signal."""
        command = child.module_command("launch.sweep.sweep_run", f"--sweep_run={path}")
        # Its own session: the terminal would send Ctrl-C to both, and the run take it as two.
        self._child = subprocess.Popen(child.tied(command), start_new_session=True)
        if self.stop_requested:
            self._child.send_signal(signal.SIGTERM)
        code = self._child.wait()
        self._child = None
        if self._interrupted:
            raise KeyboardInterrupt
        if self.stop_requested and code in (-signal.SIGTERM, -signal.SIGINT):
            return STOPPED  # Before it had anything to save.
        return code

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        again, self.stop_requested = self.stop_requested, True
        self._interrupted = again and number == signal.SIGINT
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM if not again else number)


def _with_tuples(value: Any) -> Any:
    """Returns the value with the tuples that JSON wrote as lists."""
    if isinstance(value, dict):
        return {name: _with_tuples(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return tuple(_with_tuples(entry) for entry in value)
    return value


def main() -> None:
    """Does the run and exits with its code."""
    if not _SWEEP_RUN.value:
        raise program.UsageError("--sweep_run is missing; launch.sweep starts this program")
    # Outside of training, which saves first, there is nothing to save.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    sys.exit(execute(Path(_SWEEP_RUN.value)))


if __name__ == "__main__":
    program.start(main, sys.argv)
