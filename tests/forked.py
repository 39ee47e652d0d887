"""A fork of a process that has imported what takes long becomes a program."""

import atexit
import contextlib
import multiprocessing.util
import os
import runpy
import sys
import traceback
from typing import NoReturn


def become(verb: str, arguments: list[str]) -> NoReturn:
    """Goes on as `python -m launch.VERB` with these arguments, and ends with its exit code.

    What would run at the interpreter's end runs; what it would free is left to the system.
    """
    code = 1
    try:
        sys.argv = [verb, *arguments]
        runpy.run_module(f"launch.{verb}", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            multiprocessing.util._exit_function()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
