"""What a decoder of SID tokens learns: the next item's SID, token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from minirec.models.sid_reader import SidReader
from minirec.training.tasks import item_batches
from minirec.training.tasks.token_task import cross_entropy


@dataclasses.dataclass(frozen=True, eq=False)
class SidTask:
    """Cross-entropy of the tokens of every target's SID, over the vocabulary.

    A batch holds `item`, `segment` (0 is padding, examples of a row count from 1) and
    `target_weight`, all [B, P]; other fields stay on the host. The model reads their tokens through
    a `SidReader`. The loss is the weighted mean, sum(weight * loss) / sum(weight), over the tokens
    of the whole step.

    Attributes:
        evaluator: takes the model and returns its metrics; real beam search, in a real run.
        item_tokens: `[N, L]`, the tokens of every item's SID; the step takes it as an argument.
        select_metric: the metric, among those, that selects; larger is better.
        label_smoothing: share of the target's probability that is spread over the vocabulary
            (Szegedy et al., 2016).
        max_targets: the most targets of a row. Given, logits are computed for so many items a row
            only: with examples "windows" 1 is enough, and the head costs P times less. None: for
            all places.
    """

    evaluator: Callable[[Any], dict[str, float]]
    item_tokens: Int[Array | np.ndarray, "N L"]
    select_metric: str = "ndcg@10"
    label_smoothing: float = 0.0
    max_targets: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(
                f"SidTask.label_smoothing={self.label_smoothing!r}: must lie in [0, 1)"
            )
        if self.max_targets is not None and self.max_targets < 1:
            raise ValueError(
                f"SidTask.max_targets={self.max_targets!r}: must be at least 1, or None"
            )

    @property
    def tables(self) -> Int[Array | np.ndarray, "N L"]:
        """The tokens of every item's SID."""
        return self.item_tokens

    def with_tables(self, tables: Int[Array, "N L"]) -> SidTask:
        """Returns the task with other arrays in the place of `tables`."""
        return dataclasses.replace(self, item_tokens=tables)

    def inputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the fields that the loss reads; errors as `item_batches.item_inputs`."""
        return item_batches.item_inputs(batch, len(self.item_tokens), self.max_targets)

    def count_examples(self, batch: Mapping[str, np.ndarray]) -> int:
        """Returns how many examples are packed into the batch."""
        return item_batches.count_examples(batch)

    def loss(
        self,
        model: Any,
        batch: Mapping[str, Array],
        *,
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
        """Returns the weighted sum of cross-entropies in nats, that of weights, and accuracy."""
        item, weight = batch["item"], batch["target_weight"]
        hidden = SidReader(model, self.item_tokens)(item, batch["segment"], key)
        place = item_batches.target_places(weight, self.max_targets)
        hidden, item, weight = (
            item_batches.at_places(values, place) for values in (hidden, item, weight)
        )
        targets = jnp.take(self.item_tokens, item, axis=0, mode="clip")
        weight = jnp.broadcast_to(weight.astype(jnp.float32)[..., None], targets.shape)
        logits = model.logits(hidden)
        total, count = cross_entropy(logits, targets, weight, label_smoothing=self.label_smoothing)
        hits = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weight)
        return total, count, {"token_accuracy": (hits, count)}

    def evaluate(self, model: Any) -> dict[str, float]:
        """Returns what the evaluator says of the model."""
        return self.evaluator(model)
