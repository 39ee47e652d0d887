"""One training batch of histories, by number.

Everything here is gathers and scatters over arrays, so that Python runs once a batch and not once
an example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

from pipelines.batches.event_weights import EventWeights
from pipelines.batches.examples import EVENT_FIELDS, NOTHING, Examples
from pipelines.batches.row_source import Batch, RowSource


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BatchSource(RowSource):
    """Batches of histories, one place an event.

    Attributes:
        columns: the log's, `EVENT_FIELDS` of them, each [E].
        examples: what there is to learn.
        weights: what each event counts as a target; None: all count 1.
    """

    columns: Mapping[str, Shaped[np.ndarray, " E"]]
    examples: Examples
    weights: EventWeights | None = None

    @property
    def num_examples(self) -> int:
        """Examples of an epoch."""
        return len(self.examples)

    def assemble(self, rows: np.ndarray) -> Batch:
        """Returns the arrays of the plan's rows."""
        example, row, segment = self.examples_in(rows)
        size = self.examples.size[example].astype(np.int64)
        ends = np.cumsum(size)
        begin = ends - size  # of each example, among all events of the batch
        # Packed rows are filled from the left: an example begins where the one before it ends.
        first_in_row = segment == 1
        place = row * self.row_size + begin - begin[first_in_row][row]
        history = size - self.examples.num_targets[example]

        # From here on, one entry an event of the batch.
        of_example = np.repeat(np.arange(len(example)), size)
        number = np.arange(ends[-1])
        source = number + (self.examples.start[example] - begin)[of_example]
        goal = number + (place - begin)[of_example]
        weight = number >= (begin + history)[of_example]
        if self.weights is not None:
            weight = weight * self.weights.of(source)

        def spread(values: np.ndarray, fill: int, dtype: type) -> np.ndarray:
            grid = np.full(len(rows) * self.row_size, fill, dtype)
            grid[goal] = values
            return grid.reshape(len(rows), self.row_size)

        batch = {
            name: spread(self.columns[name][source], NOTHING, dtype)
            for name, dtype in EVENT_FIELDS.items()
        }
        batch["segment"] = spread(segment[of_example], 0, np.int32)
        batch["target_weight"] = spread(weight, 0, np.float32)
        return batch
