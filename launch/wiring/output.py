"""What programs print: to terminals of any encoding, and to readers that go away."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import NoReturn

CLOSED_PIPE = 128 + 13  # SIGPIPE, which not every system has: what a shell shows of `yes | head`.
_ESCAPE = "minirec.escape"


def escape() -> None:
    """Lets stdout and stderr show what their encoding lacks as `\\u0436`, in place of an error.

    Ids, titles and paths may hold anything. JSON has the same escapes, so that its lines stay so.
    """
    codecs.register_error(_ESCAPE, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPE)


def closed_pipe() -> NoReturn:
    """Ends the program without a word, since nobody would read it.

    Raises:
        SystemExit: with the exit code of a program that SIGPIPE ended.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            # The interpreter would complain of what it cannot write at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(CLOSED_PIPE)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # A sign beyond the first 65,536 is two halves, as in JSON.
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    pairs = (units[start : start + 4] for start in range(0, len(units), 4))
    return "".join(f"\\u{unit}" for unit in pairs), error.end
