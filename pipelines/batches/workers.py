"""Grain's worker processes live and end with the program that started them."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection, resource_tracker

_TO_ALL_PROCESSES = (signal.SIGINT, signal.SIGTERM)
_NO_WARNING = "ignore:resource_tracker:UserWarning"


def deaf_to_signals[T](start: Callable[[], T]) -> T:
    """Returns what `start` returns; processes that it starts are deaf to SIGINT and SIGTERM.

    A terminal's Ctrl-C and `timeout` send these to a program and all its processes at once. What
    they mean is the program's to say: it may still need batches, and ends its workers itself.
    """
    _start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL_PROCESSES)
    try:
        # A thread inherits the mask, and so do the threads and processes that it starts. This one
        # stays open to signals while it waits.
        executor = concurrent.futures.ThreadPoolExecutor(1)
        future = executor.submit(start)
        executor.shutdown(wait=False)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return future.result()


def _start_tracker() -> None:
    """Starts the process that frees shared memory and semaphores of programs that are killed.

    It would warn of each, long after the program's own last word; and it would lift the mask of
    signals from a thread that starts it.
    """
    sys.warnoptions.append(_NO_WARNING)  # They are handed on to it.
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(_NO_WARNING)


def end_with_parent(index: int, count: int) -> None:
    """Ends this worker process as soon as the program that started it has ended, in any way.

    Args:
        index: the worker's number; Grain gives it.
        count: how many there are.
    """
    del index, count
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    connection.wait([sentinel])  # The end of a pipe whose other end dies with the parent.
    os._exit(1)
