"""A program that is tied to another ends with it, and is the program that was asked for."""

import pathlib
import signal
import subprocess
import sys

from launch.wiring.child import tied

ROOT = pathlib.Path(__file__).parents[2]
# The child has what would keep it alive: an input that does not end.
PARENT = """
import os, signal, subprocess, sys
from launch.wiring.child import tied
child = [sys.executable, "-c", "import sys; print('begun', flush=True); sys.stdin.read()"]
process = subprocess.Popen(tied(child), stdout=subprocess.PIPE)
assert process.stdout.readline() == b"begun\\n"
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_ends_with_a_killed_parent():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        # Parent and child hold the error output: it ends when both have ended.
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == -signal.SIGKILL


def test_a_child_is_its_program():
    code = "import sys; print(sys.argv[1:]); sys.exit(3)"
    done = subprocess.run(
        tied([sys.executable, "-c", code, "a b", "--c"]), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (3, "['a b', '--c']\n")


def test_a_program_that_is_missing_is_named():
    done = subprocess.run(tied(["no such program"]), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "no such program: No such file or directory\n"


def test_a_child_whose_parent_has_ended_does_not_begin():
    command = tied([sys.executable, "-c", "print('begun')"])
    command[command.index("-S") + 2] = "1"  # Another's process id.
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
