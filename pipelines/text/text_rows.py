"""One training batch of prompts and answers, by number.

Everything here is gathers and scatters over arrays, so that Python runs once a batch and not once
an example or a token.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from pipelines.batches.row_source import Batch, RowSource
from pipelines.text.encode import Spans


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TextSource(RowSource):
    """Batches of token sequences, each a prompt and its answer.

    Attributes:
        spans: the sequences; the last run of each is its answer, and the others are not empty
            together.
        weights: float32 [n], of each sequence's loss.
        draws: int64 [D], the sequence of each draw of an epoch.
        pad: token that fills up rows.
    """

    spans: Spans
    weights: Float[np.ndarray, " n"]
    draws: Int[np.ndarray, " D"]
    pad: int

    @property
    def num_examples(self) -> int:
        """Examples of an epoch."""
        return len(self.draws)

    @property
    def max_loss_tokens(self) -> int:
        """The most places of a row that the loss lies on."""
        asked = self.spans.length[self.draws, -1].astype(np.int64)
        if self.packing is not None:
            asked = np.add.reduceat(asked[self.packing.examples], self.packing.offsets[:-1])
        return int(asked.max())

    def assemble(self, rows: np.ndarray) -> Batch:
        """Returns the token arrays of the plan's rows."""
        draw, row, segment = self.examples_in(rows)
        example = self.draws[draw]
        # The last token is a target only, so that a sequence takes one place less than it has.
        size = self.spans.length[example].sum(axis=1, dtype=np.int64) - 1
        ends = np.cumsum(size)
        begin = ends - size
        # Packed rows are filled from the left: an example begins where the one before it ends.
        place = row * self.row_size + begin - begin[segment == 1][row]

        # From here on, one entry an input token of the batch.
        of_example = np.repeat(np.arange(len(example)), size)
        number = np.arange(ends[-1])
        within = number - begin[of_example]
        goal = number + (place - begin)[of_example]
        sequence = self.spans.tokens(example)
        source = number + of_example  # every sequence before has one token more than places
        is_answer = within >= (size - self.spans.length[example, -1])[of_example]

        def spread(values: np.ndarray, fill: int, dtype: type) -> np.ndarray:
            grid = np.full(len(rows) * self.row_size, fill, dtype)
            grid[goal] = values
            return grid.reshape(len(rows), self.row_size)

        return {
            "tokens": spread(sequence[source], self.pad, np.int32),
            "targets": spread(sequence[source + 1], self.pad, np.int32),
            "loss_mask": spread(is_answer * self.weights[example][of_example], 0, np.float32),
            "positions": spread(within, 0, np.int32),
            "segment_ids": spread(segment[of_example], 0, np.int32),
        }
