"""A program that is interrupted, or that nobody listens to, ends in one line or none."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
PROGRAM = pathlib.Path(__file__).with_name("ending_program.py")


def start(where, folder, **environment):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), where, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.parametrize(
    ("where", "printed"),
    [
        ("importing", b""),
        ("working", b"begun\n"),
        ("finaliser", b"begun\n"),
        ("ending", b"begun\n"),
    ],
)
def test_an_interruption_is_one_line_and_130(where, printed, tmp_path):
    process = start(where, tmp_path)
    assert process.communicate(timeout=60) == (printed, b"interrupted\n")
    assert process.returncode == 130
    assert where != "working" or not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_what_the_terminal_cannot_show_is_escaped(encoding, tmp_path):
    folder = tmp_path / "jörg"
    folder.mkdir()
    process = start("printing", folder, PYTHONIOENCODING=encoding)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    _, line, path = output.decode(encoding).splitlines()
    assert json.loads(line) == {"title": "é ж \U0001f600 \udce9"}
    assert path in (str(folder), str(folder).replace("ö", "\\u00f6"))


def test_a_closed_pipe_ends_the_program_silently(tmp_path):
    process = start("much", tmp_path)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 141
