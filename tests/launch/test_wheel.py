"""The wheel works outside the checkout."""

import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from tests.once import made_once

ROOT = pathlib.Path(__file__).parent.parent.parent
PACKAGES = ("launch", "configs", "pipelines", "minirec", "kernels")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The Python of an empty environment with the wheel and what it asks for.

    What it asks for are links to this environment's files: nothing else of it can be imported.
    """
    return made_once(tmp_path_factory, "wheel", installed)[1]


def installed(folder):
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels = folder / "wheels"
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)])
    (wheel,) = wheels.glob("minirec-*.whl")
    run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")])
    python = folder / "env" / "bin" / "python"
    run([*pip, "--python", str(python), "install", "--no-compile", "--no-deps", str(wheel)])
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (minirec,) = importlib.metadata.distributions(name="minirec", path=[str(site)])
    for distribution in asked_for(minirec):
        link_files(distribution, site)
    run([*pip, "--python", str(python), "check"])  # All are there, of versions that it allows.
    return python


def asked_for(distribution):
    """Returns what a distribution needs, and what that needs, of this environment."""
    found = {}

    def add_needed(distribution, extras):
        for line in distribution.requires or []:
            needed = Requirement(line)
            if needed.marker and not any(needed.marker.evaluate({"extra": e}) for e in extras):
                continue
            key = (needed.name, frozenset(needed.extras))
            if key not in found:
                found[key] = importlib.metadata.distribution(needed.name)
                add_needed(found[key], needed.extras or {""})

    add_needed(distribution, {""})
    return found.values()


def link_files(distribution, site):
    for file in distribution.files:
        source = pathlib.Path(file.locate())
        if ".." not in file.parts and source.is_file():  # Commands lie outside.
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            if not (site / file).exists():
                (site / file).symlink_to(source.resolve())


def run(command, cwd=None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_carries_the_five_packages_and_runs_a_launcher(environment, tmp_path):
    code = f"import {', '.join(PACKAGES)}; print(kernels.__file__)"
    where = run([environment, "-c", code], cwd=tmp_path)
    assert str(environment.parent.parent) in where, "another distribution's `kernels` is imported"
    run(
        [environment, "-m", "launch.prepare", "--config=quickstart:smoke", "--workdir=w"],
        cwd=tmp_path,
    )
    assert (tmp_path / "w" / "prepared" / "manifest.json").is_file()
    # The wheel carries the documents that a text model learns from.
    said = run(
        [environment, "-m", "launch.prepare_text", "--config=text_quickstart", "--workdir=w"],
        cwd=tmp_path,
    )
    documents = 2 + len(list((ROOT / "docs").glob("*.md")))
    found = re.findall(r"documents=(\d+)", said)
    assert sum(map(int, found)) == documents


def test_the_command_runs_from_a_folder_with_packages_of_our_names(environment, tmp_path):
    for name in ("configs", "launch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('somebody else')\n")
    minirec = environment.parent / "minirec"
    listed = run([minirec], cwd=tmp_path)
    assert "  train " in listed
    assert "  sweep " in listed
    printed = run(
        [minirec, "train", "--config=quickstart:smoke", "--workdir=w", "--print_config"],
        cwd=tmp_path,
    )
    assert "name: quickstart_smoke" in printed
    wrong = subprocess.run([minirec, "trian"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "'trian' is not a verb" in wrong.stderr
