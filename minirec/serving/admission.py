"""Who is taken on: whoever can be answered before the deadline, as far as one can tell.

The idea is that of the admission control in X's ranking engine (xai-org/x-algorithm): the expected
wait against the deadline, before anything is spent on a request.
"""

from __future__ import annotations

import dataclasses

from minirec.serving.refusals import RefusedError

_NEWEST = 0.1  # weight of the newest tile in a moving average


@dataclasses.dataclass
class Admission:
    """Decides by moving averages of what tiles took.

    Attributes:
        tile: queries of a tile.
        max_queue: queries that may wait.
        interval_s: seconds from one tile's end to the next one's, while tiles follow each other.
        latency_s: seconds from a tile's start to its end.
    """

    tile: int
    max_queue: int
    interval_s: float = 0.0
    latency_s: float = 0.0

    def check(self, waiting: int, in_flight: int, deadline_s: float) -> None:
        """Lets a query pass that can be answered in time.

        Args:
            waiting: queries before it.
            in_flight: tiles that have begun.
            deadline_s: seconds from now.

        Raises:
            RefusedError: too many wait, or it would wait too long; never for the wait where less
                than a tile waits.
        """
        expected = self.expected_s(waiting, in_flight)
        if waiting >= self.max_queue:
            raise RefusedError("queue_full", f"{waiting} requests wait already", expected)
        if waiting >= self.tile and expected > deadline_s:
            message = f"the answer is expected in {expected:.3f} s, after its deadline"
            raise RefusedError("overloaded", message, max(expected - deadline_s, self.interval_s))

    def expected_s(self, waiting: int, in_flight: int) -> float:
        """Returns in how many seconds a query that comes now is answered."""
        return (waiting // self.tile + in_flight) * self.interval_s + self.latency_s

    def tile_done(self, latency_s: float, interval_s: float | None) -> None:
        """Takes note of a tile.

        Args:
            latency_s: from its start to its end.
            interval_s: from the end of the one before to its own; None where it began later.
        """
        self.latency_s = _moved(self.latency_s, latency_s)
        self.interval_s = _moved(self.interval_s, latency_s if interval_s is None else interval_s)


def _moved(average: float, value: float) -> float:
    return value if average == 0.0 else average + _NEWEST * (value - average)
