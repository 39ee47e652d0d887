"""An exponential average of the weights over the steps, to evaluate and keep in place of the last.

The average is smoother than any of the steps it is made of and often generalises better (Polyak and
Juditsky, 1992; Izmailov et al., 2018). It lies in the optimizer's state, so that it is saved,
restored and split over devices with it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class WeightAverage(NamedTuple):
    """The state of `with_weight_average`.

    Attributes:
        inner: the state of what moves the weights.
        count: steps so far.
        average: a tree like the weights.
    """

    inner: Any
    count: Any
    average: Any


def with_weight_average(
    inner: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """Returns a transformation that moves the weights as `inner` does and keeps their average.

    After step `t` (from 1) the average gives what it was the weight
    `min(decay, (t - 1) / (t + 9))`, so that the first weights, which know nothing, are soon
    forgotten.
    """

    def init(params: Any) -> WeightAverage:
        # A copy: the weights' buffers are donated, and none may be so twice.
        start = jax.tree.map(jnp.array, params)
        return WeightAverage(inner.init(params), jnp.zeros((), jnp.int32), start)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, WeightAverage]:
        updates, inner_state = inner.update(updates, state.inner, params)
        kept = jnp.minimum(decay, state.count / (state.count + 10.0))
        moved = optax.apply_updates(params, updates)
        average = optax.incremental_update(moved, state.average, 1.0 - kept)
        return updates, WeightAverage(inner_state, state.count + 1, average)

    return optax.GradientTransformation(init, update)


def averaged(model: nnx.State, optimizer: nnx.State) -> nnx.State:
    """Returns the model's state with the averages that its optimizer keeps, if it keeps any."""
    averages = {
        path[2:]: variable.get_value()
        for path, variable in nnx.to_flat_state(optimizer)
        if path[:2] == ("opt_state", "average")
    }
    if not averages:
        return model
    return nnx.from_flat_state(
        [
            (path, variable.replace(averages[path].astype(variable.get_value().dtype)))
            if path in averages
            else (path, variable)
            for path, variable in nnx.to_flat_state(model)
        ]
    )
