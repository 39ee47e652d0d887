"""How often each task's examples come in an epoch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from pipelines.batches.shuffle import shuffled_rows

_MOST_DRAWS = 100_000_000


def draw_counts(
    sizes: Mapping[str, int], weights: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Returns how many examples of each task an epoch draws.

    Weights are shares of the examples drawn: of 100 examples in the long run, a task with a quarter
    of all weight has 25. An epoch is the shortest in which each example comes at least once: the
    task that its weight makes the slowest gives each of its own once, the others repeat theirs.
    Without weights every example of every task comes once, whatever share that is.

    Args:
        sizes: examples of each task; at least one.
        weights: of the same tasks, above 0.

    Raises:
        ValueError: a weight is so small that an epoch would hold more than 100 million examples.
    """
    if weights is None:
        return dict(sizes)
    slowest = max(sizes, key=lambda name: sizes[name] / weights[name])
    unit = sizes[slowest] / weights[slowest]
    total = unit * sum(weights[name] for name in sizes)
    if total > _MOST_DRAWS:
        raise ValueError(
            f"weights[{slowest!r}]={weights[slowest]!r}: an epoch in which each of its "
            f"{sizes[slowest]} examples comes once would hold {total:.0f} examples, more than "
            f"{_MOST_DRAWS}; give it a larger weight, or 0 to turn it off"
        )
    # Rounding must not take an example from a task that gives each of its own once.
    return {name: max(size, round(unit * weights[name])) for name, size in sizes.items()}


def draws(sizes: Mapping[str, int], counts: Mapping[str, int], seed: int) -> Int[np.ndarray, " D"]:
    """Returns the example of every draw of an epoch; examples are numbered task after task.

    Every example comes as often as the others of its task, or once more; which ones do is drawn by
    the seed, and is the same in every epoch.

    Args:
        sizes: examples of each task.
        counts: draws of each task, as `draw_counts` gives them.
        seed: any integer.
    """
    parts, first = [], 0
    for number, (name, size) in enumerate(sizes.items()):
        times, more = divmod(counts[name], size)
        part = np.tile(np.arange(size), times)
        if more:
            extra = shuffled_rows(np.arange(more), size, seed=seed, epoch=number)
            part = np.concatenate([part, np.sort(extra)])
        parts.append(first + part)
        first += size
    return np.concatenate(parts)
