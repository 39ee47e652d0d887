"""The position of an endless stream: the number of its next batch, and what stream it is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grain
import numpy as np

from pipelines.batches.row_source import ENDLESS, Batch
from pipelines.batches.workers import deaf_to_signals


class PositionedIterator(grain.DatasetIterator):
    """Counts batches and checks states; Grain's own iterators do the work.

    Grain's states change with the number of workers and know nothing of the data, so the position
    here is the number of the next batch, and restoring starts a new inner iterator there.
    """

    def __init__(
        self,
        batches_from: Callable[[int], grain.IterDataset],
        stream: Mapping[str, Any],
        *,
        has_workers: bool = False,
    ) -> None:
        """Stands at the stream's beginning.

        Args:
            batches_from: gives the stream from a batch's number on.
            stream: what the stream depends on, as JSON can hold it; part of every state.
            has_workers: processes make the batches.
        """
        super().__init__()
        self._batches_from = batches_from
        self._stream = stream
        self._has_workers = has_workers
        self._next_batch = 0
        self._inner: grain.DatasetIterator | None = None

    def __str__(self) -> str:
        return f"PositionedIterator(next_batch={self._next_batch})"

    def start_prefetch(self) -> None:
        """Begins to make batches ahead."""
        if self._has_workers:
            deaf_to_signals(lambda: self._iterator().start_prefetch())
        else:
            self._iterator().start_prefetch()

    def _iterator(self) -> grain.DatasetIterator:
        if self._inner is None:
            self._inner = iter(self._batches_from(self._next_batch))
        return self._inner

    def __next__(self) -> Batch:
        self._assert_not_closed()
        # Grain starts its workers when it is asked for the first batch.
        if self._inner is None and self._has_workers:
            batch = deaf_to_signals(lambda: next(self._iterator()))
        else:
            batch = next(self._iterator())
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns where the stream stands, as JSON can hold it."""
        return {"next_batch": self._next_batch, "stream": dict(self._stream)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to a position that `get_state` gave.

        Raises:
            ValueError: the state is not one, or is of another stream; the message names the field
                and both values.
        """
        number, stream = _parse_state(state)
        # Fields that only one of the two has come first: hashes differ too, and say less.
        fields = sorted({**self._stream, **stream}, key=lambda name: name in self._stream)
        for field in fields:
            was, now = stream.get(field), self._stream.get(field)
            if was != now:
                raise ValueError(
                    f"loader state: {field} was {was!r} when it was saved and is {now!r} now: a "
                    "position can be restored only on the same stream"
                )
        self._stop()
        self._next_batch = number

    def close(self) -> None:
        """Ends the iterator and what makes batches ahead for it."""
        self._stop()
        super().close()

    def _stop(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None


def _parse_state(state: Any) -> tuple[int, Mapping[str, Any]]:
    """Returns the next batch and the stream's description."""
    number = state.get("next_batch") if isinstance(state, Mapping) else None
    stream = state.get("stream") if isinstance(state, Mapping) else None
    good_number = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not good_number or not 0 <= number < ENDLESS or not isinstance(stream, Mapping):
        raise ValueError(
            f"loader state: {state!r} is not one: must be what get_state() of this loader gave, "
            "with next_batch (an integer from 0) and stream"
        )
    return int(number), stream
