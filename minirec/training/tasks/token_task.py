"""Next-token prediction over sequences of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from minirec.training.tasks.streamed_loss import streamed_cross_entropy

FIELDS = ("tokens", "targets", "loss_mask", "positions", "segment_ids")


@dataclasses.dataclass(frozen=True)
class TokenTask:
    """Cross-entropy of the next token over the vocabulary, where `loss_mask` asks for it.

    A batch holds `tokens`, `targets`, `positions`, `segment_ids` (0 is padding, examples of a row
    count from 1) and `loss_mask`, all [B, T]; other fields stay on the host. The model is called as
    `model(tokens, positions, segment_ids, dropout_key=key)`, gives hidden states [B, T, D], and its
    `logits` turns some of them into [..., V]. `loss_mask` may hold any weights from 0 up: the loss
    is their weighted mean, sum(weight * loss) / sum(weight), over the whole step.

    Attributes:
        evaluator: takes the model and returns its metrics; real beam search, in a real run.
        select_metric: the metric, among those, that selects; larger is better.
        label_smoothing: share of the target's probability that is spread over the vocabulary
            (Szegedy et al., 2016).
        max_loss_tokens: the most positions of a row that `loss_mask` asks for. Given, logits are
            computed for so many positions a row only. None: for all positions.
        logits_at_once: positions of the whole batch whose logits are held at one time (each device
            of a mesh holds its share); the positions that `loss_mask` asks for alone are computed.
            For large vocabularies; the model then gives its `head_parts`. None: all at once.
    """

    evaluator: Callable[[Any], dict[str, float]]
    select_metric: str = "ndcg@10"
    label_smoothing: float = 0.0
    max_loss_tokens: int | None = None
    logits_at_once: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(
                f"TokenTask.label_smoothing={self.label_smoothing!r}: must lie in [0, 1)"
            )
        for name in ("max_loss_tokens", "logits_at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"TokenTask.{name}={value!r}: must be at least 1, or None")

    def inputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the fields that the loss reads.

        Raises:
            ValueError: a field is missing, or a row asks for more than `max_loss_tokens`.
        """
        missing = [name for name in FIELDS if name not in batch]
        if missing:
            raise ValueError(f"batch lacks {missing[0]!r}; it holds {sorted(batch)}")
        if self.max_loss_tokens is not None:
            asked = np.count_nonzero(batch["loss_mask"], axis=1)
            if asked.max(initial=0) > self.max_loss_tokens:
                row = int(asked.argmax())
                raise ValueError(
                    f"batch row {row}: loss_mask asks for {asked[row]} tokens, "
                    f"TokenTask.max_loss_tokens={self.max_loss_tokens} allows fewer"
                )
        return {name: batch[name] for name in FIELDS}

    def count_examples(self, batch: Mapping[str, np.ndarray]) -> int:
        """Returns how many sequences are packed into the batch."""
        return int(np.max(batch["segment_ids"], axis=1).sum())

    def loss(
        self, model: Any, batch: Mapping[str, Array], *, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
        """Returns the weighted sum of cross-entropies in nats, that of weights, and accuracy."""
        hidden = model(batch["tokens"], batch["positions"], batch["segment_ids"], dropout_key=key)
        targets, mask = batch["targets"], batch["loss_mask"].astype(jnp.float32)
        most = min(self.max_loss_tokens or mask.shape[1], mask.shape[1])
        if most < mask.shape[1] or self.logits_at_once is not None:
            # top_k takes the lowest index first among equals, so nothing asked for is left out.
            _, place = jax.lax.top_k((mask > 0).astype(jnp.int32), most)
            hidden = jnp.take_along_axis(hidden, place[:, :, None], axis=1)
            targets = jnp.take_along_axis(targets, place, axis=1)
            mask = jnp.take_along_axis(mask, place, axis=1)
        if self.logits_at_once is not None:
            total, hits = streamed_cross_entropy(
                hidden,
                model.head_parts(),
                targets,
                mask,
                at_once=max(1, self.logits_at_once // len(mask)),
                label_smoothing=self.label_smoothing,
            )
            count = jnp.sum(mask)
            return total, count, {"token_accuracy": (hits, count)}
        logits = model.logits(hidden)
        total, count = cross_entropy(logits, targets, mask, label_smoothing=self.label_smoothing)
        hits = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * mask)
        return total, count, {"token_accuracy": (hits, count)}

    def evaluate(self, model: Any) -> dict[str, float]:
        """Returns what the evaluator says of the model."""
        return self.evaluator(model)


def cross_entropy(
    logits: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    weights: Float[Array, "*batch"],
    *,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the weighted sum of cross-entropies in nats, in float32, and the sum of weights."""
    logits = logits.astype(jnp.float32)
    # Relative to the largest, or the difference of two large numbers would eat the digits.
    logits -= jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    log_normalizer = jnp.log(jnp.sum(jnp.exp(logits), axis=-1))
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if label_smoothing:
        picked = (1.0 - label_smoothing) * picked + label_smoothing * jnp.mean(logits, axis=-1)
    return jnp.sum((log_normalizer - picked) * weights), jnp.sum(weights)
