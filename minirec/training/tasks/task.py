"""What the training loop knows of a model's job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Key

Sum = Float[Array, ""]
Ratios = Mapping[str, tuple[Sum, Sum]]


@runtime_checkable
class Task(Protocol):
    """A loss to learn by and a measure to select by.

    Losses and metrics are given as an unreduced sum with its denominator (as `google/tunix` does),
    so that packed batches, accumulated parts and whole log windows average rightly.

    A task may also have these:

    - `tables`, a pytree of arrays that no batch changes, such as the items' SIDs, and
      `with_tables(tables)`, the task with others in their place. They are an argument of the
      compiled step, whole on every device, and not constants within it;
    - `inputs(batch)`: the part of a batch that goes to the device (default `array_inputs`);
    - `touched_rows(inputs, keys)`: by the name of a parameter that is a table, the ids of the rows
      that a step reads, as `minirec.training.touched_rows` has them; empty where it is no use. The
      step learns on those rows alone then. `keys` are those that `loss` gets, one a part;
    - `count_examples(batch)`: how many examples a batch holds (default `leading_axis`).

    Attributes:
        select_metric: the name, among those that `evaluate` returns, by which the best checkpoint
            is chosen and training stops early; larger is better.
    """

    @property
    def select_metric(self) -> str:
        """The name of the metric that selects."""
        ...

    def loss(self, model: Any, batch: Any, *, key: Key[Array, ""]) -> tuple[Sum, Sum, Ratios]:
        """Returns the summed loss, its denominator and metrics of (sum, denominator).

        Args:
            model: the module; what it changes of its own state is kept.
            batch: what `inputs` made of a batch, or an equal part of it.
            key: for dropout; its own for every step and part.
        """
        ...

    def evaluate(self, model: Any) -> dict[str, float]:
        """Returns metrics of the model; takes no randomness from training and leaves it as is."""
        ...


def array_inputs(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the fields of `batch` that are arrays with a leading batch axis."""
    return {
        name: value
        for name, value in batch.items()
        if hasattr(value, "dtype") and value.ndim >= 1 and value.dtype.kind in "biuf"
    }


def leading_axis(batch: Mapping[str, Any]) -> int:
    """Returns the length of the batch's leading axis."""
    return len(next(iter(array_inputs(batch).values())))


# What a line of metrics.jsonl says besides the task's own metrics.
_TAKEN = frozenset({"kind", "step", "stage", "loss", "learning_rate", "grad_norm", "is_best"})


def check_metric_names(metrics: Mapping[str, Any], source: str) -> None:
    """Raises ValueError if a metric has a name that the loop uses itself."""
    for name in metrics:
        if name in _TAKEN or name == "seconds" or name == "examples_per_second":
            raise ValueError(f"{source} returns a metric called {name!r}, a name of the loop's own")
