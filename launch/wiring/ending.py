"""How a program ends that is interrupted by Ctrl-C."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Generator
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 128 + signal.SIGINT
_said = False


def watch() -> None:
    """Lets a Ctrl-C end the program on the spot, in one line, until `interruptible` takes over.

    While modules are imported there is nothing to save, and an exception may come out of C code
    as another one. Where Ctrl-C is ignored (`nohup`) it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_now)
        # Last of all that is done at the end, after which Python no longer calls handlers.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Lets a Ctrl-C leave the body by KeyboardInterrupt, and ends the program with 130 then.

    What comes before and after the body is ended on the spot; see `watch`. Programs that were not
    started by `python -m` are left as they are.

    Raises:
        SystemExit: in place of KeyboardInterrupt.
    """
    if signal.getsignal(signal.SIGINT) is not _end_now:
        yield
        return
    # Inside a finaliser or a callback Python would print the exception and go on.
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("MINIREC_TRACEBACK"):
            raise
        _say()
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, _end_now)


def _say() -> None:
    """Says once that the program was interrupted; threads that lose their work stay silent."""
    global _said
    logging.disable(logging.CRITICAL)
    if not _said:
        _said = True
        print("interrupted", file=sys.stderr, flush=True)


def _end_now(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    with contextlib.suppress(Exception):  # An output that is closed or being written to.
        _say()
        sys.stdout.flush()
    os._exit(INTERRUPTED)


def _unraisable(unraisable: Any) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _end_now(signal.SIGINT, None)
    sys.__unraisablehook__(unraisable)
