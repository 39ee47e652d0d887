"""One training batch of SID histories, by number.

Everything here is gathers and scatters over arrays, so that Python runs once a batch and not once
an example.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int

from minirec.sids import SidVocab
from pipelines.batches.event_weights import EventWeights
from pipelines.batches.examples import Examples
from pipelines.batches.row_source import Batch, RowSource


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BatchSource(RowSource):
    """Batches of SID histories.

    Attributes:
        items: int32 [E], the items of all events.
        table: int32 [N + 1, L], the tokens of every item, and a last row of PAD.
        examples: what there is to learn.
        weights: what each event counts as a target; None: all count 1.
    """

    items: Int[np.ndarray, " E"]
    table: Int[np.ndarray, "N_and_one L"]
    examples: Examples
    weights: EventWeights | None = None

    @property
    def num_examples(self) -> int:
        """Examples of an epoch."""
        return len(self.examples)

    def assemble(self, rows: np.ndarray) -> Batch:
        """Returns the token arrays of the plan's rows."""
        num_levels = self.table.shape[1]
        slots = self.row_tokens // num_levels  # places for items in a row
        example, row, segment = self.examples_in(rows)
        size = self.examples.size[example].astype(np.int64)
        ends = np.cumsum(size)
        begin = ends - size  # of each example, among all items of the batch
        # Packed rows are filled from the left: an example begins where the one before it ends.
        first_in_row = segment == 1
        slot = row * slots + begin - begin[first_in_row][row]

        # From here on, one entry an item of the batch.
        of_example = np.repeat(np.arange(len(example)), size)
        number = np.arange(ends[-1])
        within = number - begin[of_example]
        source = number + (self.examples.start[example] - begin)[of_example]
        goal = number + (slot - begin)[of_example]

        def spread(values: np.ndarray, fill: Any, dtype: type) -> np.ndarray:
            grid = np.full(len(rows) * slots, fill, dtype)
            grid[goal] = values
            return grid.reshape(len(rows), slots)

        history = size - self.examples.num_targets[example]
        item = spread(self.items[source], len(self.table) - 1, np.int64)
        segments = spread(segment[of_example], 0, np.int32)
        places = spread(within * num_levels, 0, np.int32)
        weight = within >= history[of_example]
        if self.weights is not None:
            weight = weight * self.weights.of(source)
        weight = spread(weight, 0, np.float32)

        # And now one an item's token.
        levels = np.arange(num_levels, dtype=np.int32)
        targets = self.table.take(item, axis=0).reshape(len(rows), -1)
        segment_ids = np.repeat(segments, num_levels, axis=1)
        positions = (places[:, :, None] + levels).reshape(len(rows), -1)
        positions *= segment_ids > 0
        tokens = np.empty_like(targets)
        tokens[:, 1:] = targets[:, :-1]
        tokens[positions == 0] = SidVocab.BOS
        tokens[segment_ids == 0] = SidVocab.PAD
        batch = {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": np.repeat(weight, num_levels, axis=1),
            "positions": positions,
            "segment_ids": segment_ids,
        }
        if rest := self.row_tokens - slots * num_levels:
            batch = {key: np.pad(value, ((0, 0), (0, rest))) for key, value in batch.items()}
        return batch
