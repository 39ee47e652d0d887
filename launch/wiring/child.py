"""Programs that end with the program that starts them, even where that is killed.

As a program of its own (standard library alone), it becomes the program that it is given.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_ROOT = str(Path(__file__).resolve().parents[2])
# The working folder may hold packages of our names, and a checkout is on the path by nothing else.
_RUN_MODULE = """
import runpy, sys
root, name = sys.argv[1:3]
del sys.argv[1:3]
if root not in sys.path:
    sys.path.insert(0, root)
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


def module_command(name: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module of this project, from any folder."""
    return [sys.executable, "-P", "-c", _RUN_MODULE, _ROOT, name, *arguments]


def tied(command: Sequence[str]) -> list[str]:
    """Returns a command that does the same and is killed when this process ends, on Linux.

    Start it from a thread that lives as long as it: the system looks at the thread.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main() -> None:
    """Ties this process to its parent and becomes the program of its arguments."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(1)  # It ended before it could be watched.
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
