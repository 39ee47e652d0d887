"""Every program is killed at one moment and run again; `python -m tests.attacks.kill` does more."""

import os
import pathlib
import subprocess
import sys

import pytest

from launch.wiring.console import verbs
from tests.attacks.kill import PROGRAMS

ROOT = pathlib.Path(__file__).parents[2]
# Those of a group need what the ones before them leave, which is made once; a sweep's run compiles
# what `train` and `evaluate` have compiled.
GROUPS = (
    "prepare,make_sids,append,compare_sids,train,evaluate,metrics,recommend,sweep",
    "artifacts,tasks,sft",
    "prepare_text,train_tokenizer,prepare_qa",
)
ELSEWHERE = {
    "quickstart": "its four steps are killed one by one",
    "train_workers": "train is killed, and test_loader_workers.py kills one with workers",
}
LEAVE_NOTHING = {
    "bench": "prints its rows",
    "chat": "prints its answers; the index that it makes is prepare_qa's",
    "feed": "it trains as train does; its store is killed by test_event_store and feed_faults.py",
    "probe_mask": "prints what it finds",
    "verify_question": "prints what the gate says; the index that it makes is prepare_qa's",
    "serve": "what it leaves are versions, which tests/serving/faults.py kills and restarts",
    "publish": "git leaves what there is to leave",
    "tpu": "its work lies on the VM; test_tpu.py ends and repeats it there",
}


def test_every_program_is_in_a_group():
    assert {*",".join(GROUPS).split(","), *ELSEWHERE} == {*PROGRAMS}
    assert {*verbs()} == {program.verb for program in PROGRAMS.values()} | {*LEAVE_NOTHING}


@pytest.mark.parametrize("programs", GROUPS)
def test_a_killed_program_run_again_leaves_what_one_leaves_that_was_not(programs):
    done = subprocess.run(
        [sys.executable, "-m", "tests.attacks.kill", "--times=1", f"--programs={programs}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1:] == [[name, "1", "1", "0", "0", "0", "0"] for name in programs.split(",")]
