"""Every program is killed at one moment and run again; `python -m tests.attacks.kill` does more."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.attacks.kill import PROGRAMS

ROOT = pathlib.Path(__file__).parents[2]
# Those of a group need what the ones before them leave, which is made once.
GROUPS = (
    "prepare,make_sids,compare_sids,train,evaluate,metrics",
    "train_workers,recommend",
    "artifacts,sweep",
    "sft",
)


def test_every_program_is_in_a_group():
    assert sorted(",".join(GROUPS).split(",")) == sorted(PROGRAMS)


@pytest.mark.parametrize("programs", GROUPS)
def test_a_killed_program_run_again_leaves_what_one_leaves_that_was_not(programs):
    command = [sys.executable, "-m", "tests.attacks.kill", "--times=1", f"--programs={programs}"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert rows == dict.fromkeys(
        programs.split(","), f"{1:>11} {1:>11} {0:>11} {0:>11} {0:>11} {0:>11}".strip()
    )
