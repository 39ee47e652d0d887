"""Benchmarks beside transformers: its environment, and measurements in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from launch.wiring.child import tied

NAME = "transformers"
_CHECKOUT = Path(__file__).parents[2]
PYTHON = _CHECKOUT / ".venv-oracles" / "bin" / "python"


def command(program: str, folder: Path, benchmark: str) -> list[str] | None:
    """Returns what runs a program of `tests/oracles` on a folder.

    None, and a note on stderr, where `make oracles` has not made the environment.

    Args:
        program: the file's name.
        folder: its only argument.
        benchmark: what leaves its row out, for the note.
    """
    path = _CHECKOUT / "tests" / "oracles" / program
    packages = PYTHON.parents[1].glob(f"lib/python*/site-packages/{NAME}")
    if PYTHON.is_file() and path.is_file() and any(packages):
        return [str(PYTHON), "-I", str(path), str(folder)]
    print(f"{benchmark}: left out {NAME}: `make oracles` makes its environment", file=sys.stderr)
    return None


def own_command(module: str, folder: Path) -> list[str]:
    """Returns what runs a module of ours on a folder."""
    return [sys.executable, "-m", module, str(folder)]


def measured(command: list[str]) -> dict[str, Any]:
    """Returns the JSON object in the last line that a command prints.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    # Ours would load the plugins of every other chip that is installed, too.
    environment = os.environ | {"JAX_PLATFORMS": jax.default_backend()}
    done = subprocess.run(
        tied(command), capture_output=True, text=True, check=False, cwd=_CHECKOUT, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
