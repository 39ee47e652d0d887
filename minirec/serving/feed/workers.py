"""Threads that answer requests, with admission by deadline as the recommender's engine has it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable

from minirec.files.schema import require_whole
from minirec.serving.admission import Admission
from minirec.serving.refusals import LateError, RefusedError


class Workers:
    """Runs work in threads, each piece before its deadline or not at all.

    Attributes:
        deadline_s: seconds that work gets where it does not say.
        admission: decides who is taken on.
    """

    def __init__(self, number: int, *, max_queue: int = 256, deadline_s: float = 1.0):
        """Starts nothing yet.

        Args:
            number: of threads.
            max_queue: pieces of work that may wait.
            deadline_s: see above.

        Raises:
            ValueError: a number out of range.
        """
        require_whole("number", number)
        require_whole("max_queue", max_queue)
        self.deadline_s, self.admission = deadline_s, Admission(max_queue)
        self._number = number
        self._pool = concurrent.futures.ThreadPoolExecutor(number, "answers")
        self._lock = threading.Lock()
        self._waiting = self._running = 0
        self._is_draining = False

    @property
    def num_waiting(self) -> int:
        """Pieces of work that wait for a thread."""
        return self._waiting

    @property
    def num_running(self) -> int:
        """Pieces that threads work at."""
        return self._running

    @property
    def is_draining(self) -> bool:
        """Whether nothing is taken on any more."""
        return self._is_draining

    async def run[Result](
        self, work: Callable[[], Result], deadline_s: float | None = None
    ) -> Result:
        """Returns what `work` does in a thread.

        Args:
            work: what to do.
            deadline_s: seconds from now; None: the workers' own.

        Raises:
            RefusedError: too much waits, or the workers end.
            LateError: the deadline passed; work that had begun goes on, and nobody waits for it.
        """
        deadline_s = self.deadline_s if deadline_s is None else deadline_s
        came = time.perf_counter()
        with self._lock:
            if self._is_draining:
                raise RefusedError("draining", "the server is about to end", 1.0)
            ahead, rounds = self._waiting // self._number, self._running // self._number
            expected = self.admission.check(self._waiting, ahead, rounds, deadline_s)
            self._waiting += 1
        future = self._pool.submit(self._do, work, came + deadline_s)
        # A piece that is never begun is never counted as running.
        future.add_done_callback(self._never_begun)
        try:
            result = await asyncio.wait_for(asyncio.wrap_future(future), deadline_s)
        except TimeoutError as error:
            raise LateError("the deadline passed before the answer") from error
        self.admission.told(expected, time.perf_counter() - came)
        return result

    def drain(self, seconds: float) -> None:
        """Takes nothing on any more, and waits so long at most until all is done."""
        with self._lock:
            self._is_draining = True
        until = time.monotonic() + seconds
        quiet = threading.Event()
        while (self._waiting or self._running) and time.monotonic() < until:
            quiet.wait(0.01)

    def close(self) -> None:
        """Ends the threads; nobody waits for what is late."""
        with self._lock:
            self._is_draining = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _do[Result](self, work: Callable[[], Result], until: float) -> Result:
        begun = time.perf_counter()
        with self._lock:
            self._waiting -= 1
            self._running += 1
        try:
            if begun > until:  # Nobody waits for it: it shall cost nothing.
                raise LateError("the deadline passed before it began")
            result = work()
        finally:
            with self._lock:
                self._running -= 1
        with self._lock:
            took = time.perf_counter() - begun
            # One thread of several: so often does one of them end.
            self.admission.tile_done(took, took)
        return result

    def _never_begun(self, future: concurrent.futures.Future) -> None:
        if future.cancelled():
            with self._lock:
                self._waiting -= 1
