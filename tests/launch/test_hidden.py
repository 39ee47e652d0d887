"""A package of somebody else that stands before one of ours is named with its folder."""

import os
import pathlib
import subprocess
import sys

import pytest

from launch.wiring.hidden import hidden

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with two packages, first on Python's path but for what a test puts there."""
    folder = tmp_path / "project"
    for name in ("ours_a", "ours_b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder)
    return folder


def other(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("file", ["ours_b/__init__.py", "ours_b.py"])
def test_a_package_or_a_module_that_comes_first_is_named(project, tmp_path, monkeypatch, file):
    path = other(tmp_path / "here" / file)
    assert hidden(project, ("ours_a", "ours_b")) == ""
    monkeypatch.syspath_prepend(tmp_path / "here")
    place = path.parent if path.name == "__init__.py" else path
    said = hidden(project, ("ours_a", "ours_b"))
    assert said.startswith(f"{place} hides {project / 'ours_b'}: ")


def test_what_hides_nothing_is_left_alone(project, tmp_path, monkeypatch):
    (tmp_path / "here" / "ours_b").mkdir(parents=True)  # No __init__.py: the later one wins.
    monkeypatch.syspath_prepend(tmp_path / "here")
    assert hidden(project, ("ours_a", "ours_b", "not_installed")) == ""
    link = tmp_path / "link"
    link.symlink_to(project)
    assert hidden(link, ("ours_a",)) == ""


@pytest.mark.parametrize("name", ["configs", "kernels"])
def test_a_program_started_beside_a_package_of_that_name_says_so_in_a_line(tmp_path, name):
    folder = other(tmp_path / name / "__init__.py").parent
    done = subprocess.run(
        [sys.executable, "-m", "launch.prepare", "--config=quickstart", "--workdir=W"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder} hides {ROOT / name}: ")
    assert len(done.stderr.splitlines()) == 1
