"""How the files of a run are read, for the tests that damage them: each takes job and path."""

import json

from launch.wiring import run_summary
from minirec.training import read_metrics
from minirec.training.metrics_log import FINAL, check_prefix
from minirec.training.step_folders import StepFolders


def of_metrics(job, path):
    """The lines, looked at as who goes on does; one that tells of the end is made anew."""
    lines = [line for line in read_metrics(job.run) if line["kind"] != FINAL]
    last = max((job.run / "checkpoints" / "last").iterdir(), key=lambda folder: int(folder.name))
    position = json.loads((last / "position" / "metadata").read_bytes())
    check_prefix(path, position["metrics_bytes"], position["metrics_sha256"])
    return lines


def of_report(job, path):
    return run_summary._evaluation(job, path.parent.name)


def of_checkpoint(job, path):
    step = next(part for part in path.parents if part.parent.name in ("last", "best"))
    saved = StepFolders(step.parent, keep=None)
    try:
        saved.check(int(step.name), "see above")
    finally:
        saved.close()


def outcome(reader, job, path):
    """What a reader makes of a file: a value, or the error that names it."""
    try:
        return repr(reader(job, path)), None
    except (ValueError, OSError) as error:
        return None, str(error)
