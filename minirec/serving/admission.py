"""Who is taken on: whoever can be answered before the deadline, as far as one can tell.

The idea is that of the admission control in X's ranking engine (xai-org/x-algorithm): the expected
wait against the deadline, before anything is spent on a request. How far the expectation errs is
followed as TCP follows round trips (RFC 6298): a moving average of the error, and four of its mean
deviations beside it.
"""

from __future__ import annotations

import dataclasses
import threading

from minirec.serving.refusals import RefusedError

_NEWEST = 0.1  # weight of the newest tile in a moving average
_NEWEST_ERROR = 1 / 64  # the same of an answer: a tile's answers err alike
_DEVIATIONS = 4


@dataclasses.dataclass
class Admission:
    """Decides by moving averages of what tiles took; answers may be told from any thread.

    Attributes:
        max_queue: queries that may wait.
        interval_s: seconds from one tile's end to the next one's, while tiles follow each other.
        latency_s: seconds from a tile's start to its end.
        error_s: by how many seconds answers come later than expected, on average.
        deviation_s: how far single answers are from that, on average.
    """

    max_queue: int
    interval_s: float = 0.0
    latency_s: float = 0.0
    error_s: float = 0.0
    deviation_s: float = 0.0
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    @property
    def margin_s(self) -> float:
        """Seconds that an answer may well come later than expected."""
        return max(0.0, self.error_s + _DEVIATIONS * self.deviation_s)

    def check(self, waiting: int, ahead: int, in_flight: int, deadline_s: float) -> float:
        """Lets a query pass that can be answered in time; returns the seconds expected until then.

        Args:
            waiting: queries in the queue.
            ahead: tiles that begin before its own.
            in_flight: tiles that have begun.
            deadline_s: seconds from now.

        Raises:
            RefusedError: too many wait, or it would wait too long; never for the wait where less
                than a tile waits.
        """
        expected = self.expected_s(ahead, in_flight)
        if waiting >= self.max_queue:
            raise RefusedError("queue_full", f"{waiting} requests wait already", expected)
        surely = expected + self.margin_s
        if ahead and surely > deadline_s:
            message = f"the answer is expected in {surely:.3f} s, after its deadline"
            raise RefusedError("overloaded", message, max(surely - deadline_s, self.interval_s))
        return expected

    def expected_s(self, ahead: int, in_flight: int) -> float:
        """Returns in how many seconds a query that comes now is answered."""
        return (ahead + in_flight) * self.interval_s + self.latency_s

    def tile_done(self, latency_s: float, interval_s: float | None) -> None:
        """Takes note of a tile.

        Args:
            latency_s: from its start to its end.
            interval_s: from the end of the one before to its own; None where it began later.
        """
        self.latency_s = _moved(self.latency_s, latency_s)
        self.interval_s = _moved(self.interval_s, latency_s if interval_s is None else interval_s)

    def told(self, expected_s: float, took_s: float) -> None:
        """Takes note of an answer that a client has been told.

        Args:
            expected_s: what `check` returned.
            took_s: seconds from its coming until now.
        """
        with self._lock:
            error = took_s - expected_s - self.error_s
            self.error_s += _NEWEST_ERROR * error
            self.deviation_s += _NEWEST_ERROR * (abs(error) - self.deviation_s)


def _moved(average: float, value: float) -> float:
    return value if average == 0.0 else average + _NEWEST * (value - average)
