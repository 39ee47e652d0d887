"""What an event counts as a training target, by its type."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from pipelines.batches.examples import Examples, PreparedLog


@dataclasses.dataclass(frozen=True, eq=False)
class EventWeights:
    """The weight of every event, kept by type.

    Attributes:
        by_name: weight of each event type, in the order of their numbers.
        events: int32 [E], the type of every event.
        weights: float32 [types].
    """

    by_name: Mapping[str, float]
    events: Int[np.ndarray, " E"]
    weights: Float[np.ndarray, " types"]

    def __str__(self) -> str:
        return ", ".join(f"{name}={weight!r}" for name, weight in self.by_name.items())

    def of(self, positions: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Returns the weights of the events at some positions."""
        return self.weights[self.events[positions]]

    def num_targets(self, examples: Examples) -> Int[np.ndarray, " n"]:
        """Returns how many targets of each example have a weight above 0."""
        if self.weights.min() > 0:
            return examples.num_targets
        before = np.concatenate([[0], np.cumsum(self.weights[self.events] > 0)])
        stop = examples.start + examples.size
        return before[stop] - before[stop - examples.num_targets]

    def worth_learning(self, examples: Examples) -> Examples:
        """Returns the examples with a target of a weight above 0; the others are left out."""
        kept = self.num_targets(examples) > 0
        return Examples(
            examples.start[kept],
            examples.size[kept],
            examples.num_targets[kept],
            examples.left_out + int(np.count_nonzero(~kept)),
        )


def event_weights(prepared: PreparedLog) -> EventWeights | None:
    """Returns the weights of a prepared data set's events; None where all types weigh 1.

    Raises:
        ValueError: an event is of a type that has no weight.
    """
    by_name = prepared.event_weights
    if all(weight == 1 for weight in by_name.values()):
        return None
    events = np.asarray(prepared.columns["event"])
    if len(events) and (events.min() < 0 or events.max() >= len(by_name)):
        event = int(np.flatnonzero((events < 0) | (events >= len(by_name)))[0])
        raise ValueError(
            f"columns/event: event {event} is of type {events[event]}: must lie in "
            f"[0, {len(by_name)}), the numbers of {', '.join(by_name)}"
        )
    return EventWeights(dict(by_name), events, np.array(list(by_name.values()), np.float32))
