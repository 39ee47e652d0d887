"""SIGTERM and SIGINT end a run at its next safe place."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType
from typing import Any

import jax


class AbandonedError(BaseException):
    """Leaves an evaluation that a signal cut short; no `except Exception` on the way stops it."""


class StopSignals:
    """While entered, notes the first SIGTERM or SIGINT instead of dying of it.

    A second SIGINT (Ctrl-C) ends the program the ordinary way. Off the main thread, where Python
    cannot handle signals, nothing is changed.

    Attributes:
        requested: whether a signal came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._may_raise = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # A handler that was not set from Python cannot be set again; the default is next best.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        if self._may_raise:
            self._may_raise = False
            raise AbandonedError

    @contextlib.contextmanager
    def abandoning(self) -> Generator[None]:
        """Lets a signal leave the body at once, by AbandonedError: for work that can be redone.

        Of several processes none leaves: the others would wait for it.
        """
        if jax.process_count() > 1:
            yield
            return
        self._may_raise = True
        try:
            if self.requested:
                raise AbandonedError
            yield
        finally:
            self._may_raise = False
