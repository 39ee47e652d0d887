"""Benchmarks beside PyTorch and transformers: their programs, in an environment of their own.

The variable MINIREC_PEERS of the environment names the folder of the programs (`make bench` sets
it); `make oracles` makes the environment that they run in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from launch.wiring.child import module_command, tied

NAME = "transformers"
_ROOT = Path(__file__).parents[2]
PYTHON = _ROOT / ".venv-oracles" / "bin" / "python"


def program(name: str) -> Path | None:
    """Returns the path of a peer's program; None where it is not there."""
    folder = os.environ.get("MINIREC_PEERS")
    path = Path(folder or "", name)
    return path if folder and path.is_file() else None


def command(name: str, folder: Path, benchmark: str) -> list[str] | None:
    """Returns what runs a peer's program on a folder.

    None, and a note on stderr, where the program or its environment is missing.

    Args:
        name: the program's file.
        folder: its only argument.
        benchmark: what leaves its row out, for the note.
    """
    path = program(name)
    packages = PYTHON.parents[1].glob(f"lib/python*/site-packages/{NAME}")
    if PYTHON.is_file() and path is not None and any(packages):
        return [str(PYTHON), "-I", str(path), str(folder)]
    print(
        f"{benchmark}: left out {NAME}: `make oracles` makes its environment, and MINIREC_PEERS "
        "must name the folder of its programs (`make bench` does)",
        file=sys.stderr,
    )
    return None


def own_command(module: str, folder: Path) -> list[str]:
    """Returns what runs a module of ours on a folder."""
    return module_command(module, str(folder))


def measured(command: list[str]) -> dict[str, Any]:
    """Returns the JSON object in the last line that a command prints.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    # Ours would load the plugins of every other chip that is installed, too.
    environment = os.environ | {"JAX_PLATFORMS": jax.default_backend()}
    done = subprocess.run(
        tied(command), capture_output=True, text=True, check=False, cwd=_ROOT, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
