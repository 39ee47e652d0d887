"""How well a language model predicts a text: perplexity a token, bits a byte."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32, Int32

from minirec.models.vocabulary import merged
from minirec.training.tasks.token_task import TokenTask

MEASURES = ("perplexity", "bits_per_byte")


@dataclasses.dataclass(frozen=True, eq=False)
class Perplexity:
    """Measures a model on one text, cut into windows that are read by themselves.

    Attributes:
        windows: [n, T + 1] tokens; each window's first one is given, the others are predicted. A
            window begins with the last token of the one before.
        mask: [n, T], which of the predicted ones belong to the text.
        num_bytes: of the text's UTF-8.
        batch_size: windows at a time.
        logits_at_once: positions whose logits are held at one time.
    """

    windows: Int32[np.ndarray, "n W"]
    mask: Float32[np.ndarray, "n T"]
    num_bytes: int
    batch_size: int = 4
    logits_at_once: int = 512

    @classmethod
    def of_tokens(
        cls,
        tokens: Int32[np.ndarray, " m"],
        num_bytes: int,
        *,
        first: int,
        window: int,
        **options: int,
    ) -> Perplexity:
        """Returns the measure of a text.

        Args:
            tokens: the text's.
            num_bytes: of the text's UTF-8.
            first: the token that stands before the text, such as the end of another.
            window: tokens that are predicted in a window.
            **options: `batch_size` and `logits_at_once`.

        Raises:
            ValueError: a text without tokens, or a window without any.
        """
        if not len(tokens) or window < 1:
            raise ValueError(f"{len(tokens)} tokens in windows of {window}: both must be above 0")
        number = -(-len(tokens) // window)
        row = np.full(number * window + 1, first, np.int32)
        row[1 : len(tokens) + 1] = tokens
        starts = np.arange(number)[:, None] * window
        mask = (np.arange(number * window) < len(tokens)).astype(np.float32)
        windows = row[starts + np.arange(window + 1)]
        return cls(windows, mask.reshape(number, window), num_bytes, **options)

    def __call__(self, model: Any) -> dict[str, float]:
        """Returns `perplexity` (a token) and `bits_per_byte` of a model."""
        task = TokenTask(_nothing, logits_at_once=self.logits_at_once)
        plain, total, count = merged(model), 0.0, 0.0
        size = min(self.batch_size, len(self.windows))
        for begin in range(0, len(self.windows), size):
            windows = np.zeros((size, self.windows.shape[1]), np.int32)
            mask = np.zeros((size, self.mask.shape[1]), np.float32)
            part = self.windows[begin : begin + size]
            windows[: len(part)], mask[: len(part)] = part, self.mask[begin : begin + size]
            loss, weight = _loss(plain, task, windows, mask)
            total, count = total + float(loss), count + float(weight)
        return {
            "perplexity": math.exp(min(total / count, 700.0)),
            "bits_per_byte": total / math.log(2) / self.num_bytes,
        }


def _nothing(model: Any) -> dict[str, float]:
    del model
    return {}


@nnx.jit(static_argnames=("task",))
def _loss(model: Any, task: TokenTask, windows: Any, mask: Any) -> tuple[Any, Any]:
    shape = mask.shape
    batch = {
        "tokens": windows[:, :-1],
        "targets": windows[:, 1:],
        "loss_mask": mask,
        "positions": jnp.broadcast_to(jnp.arange(shape[1]), shape),
        "segment_ids": jnp.ones(shape, jnp.int32),
    }
    # The key is for dropout alone, and evaluation has none.
    total, count, _ = task.loss(model, batch, key=None)  # pyrefly: ignore[bad-argument-type]
    return total, count
