"""One optimizer step, compiled once a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key, UInt32

from minirec.models.sharding import AXES, replicate, replicated
from minirec.training.tasks.task import Ratios, Task, check_metric_names
from minirec.training.touched_rows import Narrowed
from minirec.training.weight_average import averaged


class TrainState(NamedTuple):
    """Everything a step reads and returns; its buffers are donated.

    Attributes:
        model: the model's whole state: parameters and whatever else its Variables hold.
        optimizer: the optimizer's state with its step count.
    """

    model: nnx.State
    optimizer: nnx.State

    @property
    def evaluated(self) -> nnx.State:
        """The model's state that is evaluated: with averaged weights where they are kept."""
        return averaged(self.model, self.optimizer)


class StepMetrics(NamedTuple):
    """What a step says of itself, on the device until somebody asks.

    Attributes:
        ratios: "loss" and the task's metrics as (sum, denominator).
        learning_rate: the rate that this step used.
        grad_norm: global norm of the gradient of the mean loss, before clipping.
        finite: whether loss and gradient are.
    """

    ratios: Ratios
    learning_rate: Float[Array, ""]
    grad_norm: Float[Array, ""]
    finite: Array


class TrainStep:
    """`state, metrics = step(state, inputs, number)`: jitted once, the state donated.

    The model is split and merged around `jax.jit` rather than passed through `nnx.jit`, so that a
    call costs no walk over the module graph. On a mesh, both must lie there already
    (`minirec.models.sharding.place`).

    Attributes:
        traces: how often the step was traced; more than once a stage means that shapes changed.
        tables: the task's, where the step runs; the program's third argument.
    """

    def __init__(
        self,
        model: nnx.Module,
        optimizer: nnx.Optimizer,
        task: Task,
        *,
        schedule: optax.Schedule,
        accumulate: int,
        seed: int,
        mesh: Mesh | None = None,
        trainable: Any = nnx.Param,
        narrows: bool = True,
    ) -> None:
        """Makes the step; compiles nothing yet.

        Args:
            model: the model with its first values.
            optimizer: over its trainable parameters.
            task: gives the loss.
            schedule: the learning rate, for the record.
            accumulate: parts of a batch that are walked through in a row.
            seed: of the randomness of a step.
            mesh: where model and optimizer lie.
            trainable: an NNX filter of the parameters that learn.
            narrows: whether it may learn on the rows of a table that it touches alone.
        """
        self.traces = 0
        self._narrows = narrows
        self._trainable = trainable
        self._model_graph, model_state = nnx.split(model)
        self._optimizer_graph, optimizer_state = nnx.split(optimizer)
        self._task = task
        self._schedule = schedule
        self._accumulate = accumulate
        self._seed = seed
        self._mesh = mesh
        self._first = TrainState(model_state, optimizer_state)
        self.tables = replicate(jax.tree.map(jnp.asarray, getattr(task, "tables", None)), mesh)
        out_shardings = None
        if mesh is not None:  # The state comes back laid out as it goes in.
            shardings = jax.tree.map(lambda x: x.sharding, self._first)
            out_shardings = (shardings, replicated(mesh))
        self._jitted = jax.jit(self._step, donate_argnums=0, out_shardings=out_shardings)

    def start(self) -> TrainState:
        """Returns, once, what the first call takes: model and optimizer as they were given."""
        state = self._first
        del self._first  # Its buffers are the caller's to donate.
        return state

    def __call__(
        self, state: TrainState, inputs: Any, number: int
    ) -> tuple[TrainState, StepMetrics]:
        """Starts the step and returns without waiting for it.

        Args:
            state: as the step before returned it; not usable afterwards.
            inputs: arrays with a leading batch axis.
            number: the run's steps so far; it draws the randomness of this one.

        Raises:
            ValueError: `accumulate` does not divide the batch, or the task's metric has a name
                that the loop uses itself.
        """
        with self._on_mesh():
            return self._jitted(state, inputs, self.tables, np.uint32(number))

    def lower(self, state: TrainState, inputs: Any, number: int) -> jax.stages.Lowered:
        """Returns the program of a step without running it, to compile it or look into it.

        Compiled here, it is not compiled again by a call with arguments of these shapes.

        Args:
            state: as for a call; it stays usable.
            inputs: as for a call.
            number: as for a call.

        Raises:
            ValueError: as a call.
        """
        with self._on_mesh():
            return self._jitted.lower(state, inputs, self.tables, np.uint32(number))

    def model(self, state: TrainState) -> nnx.Module:
        """Returns the model that the state evaluates, to read from until the next step."""
        return nnx.merge(self._model_graph, state.evaluated, copy=True)

    def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

    def _step(
        self, state: TrainState, inputs: Any, tables: Any, number: UInt32[Array, ""]
    ) -> tuple[TrainState, StepMetrics]:
        self.traces += 1  # Python runs this line only while tracing.
        model = nnx.merge(self._model_graph, state.model, copy=True)
        optimizer = nnx.merge(self._optimizer_graph, state.optimizer, copy=True)
        key = jax.random.fold_in(jax.random.key(self._seed), number)
        learning_rate = jnp.asarray(self._schedule(optimizer.step[...]))

        task = getattr(self._task, "with_tables", lambda _: self._task)(tables)
        narrowed = Narrowed(model, optimizer, self._touched_rows(task, inputs, key))
        grads, ratios = self._gradients(model, inputs, task, key)
        _, denominator = ratios["loss"]
        # A batch without any target has loss 0 and gradient 0, not NaN.
        scale = 1.0 / jnp.where(denominator > 0, denominator, 1.0)
        grads = jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads)
        grad_norm = optax.tree.norm(nnx.as_pure(grads))
        optimizer.update(model, grads)
        narrowed.widen()

        finite = jnp.isfinite(ratios["loss"][0]) & jnp.isfinite(grad_norm)
        state = TrainState(nnx.state(model), nnx.state(optimizer))
        return state, StepMetrics(ratios, learning_rate, grad_norm, finite)

    def _touched_rows(self, task: Task, inputs: Any, key: Array) -> Mapping[str, Array]:
        """Returns the rows that the step learns on, by table; whole tables are not among them."""
        touched = getattr(task, "touched_rows", None)
        if touched is None or not self._narrows or self._mesh is not None:
            return {}
        return touched(inputs, _keys_of_parts(key, self._accumulate))

    def _gradients(
        self, model: nnx.Module, inputs: Any, task: Task, key: Array
    ) -> tuple[nnx.State, Ratios]:
        """Gradient of the summed loss over all parts, and the summed ratios."""
        graph, params, frozen, rest = nnx.split(model, self._trainable, nnx.Param, ...)

        def summed_loss(params: nnx.State, rest: nnx.State, part: Any, key: Array) -> Any:
            part_model = nnx.merge(graph, params, frozen, rest, copy=True)
            total, denominator, metrics = task.loss(part_model, part, key=key)
            check_metric_names(metrics, f"{type(self._task).__name__}.loss")
            ratios = {"loss": (total, denominator), **metrics}
            ratios = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), ratios)
            _, _, _, rest = nnx.split(part_model, self._trainable, nnx.Param, ...)
            return total, (ratios, rest)

        gradient = jax.grad(summed_loss, has_aux=True)
        if self._accumulate == 1:
            grads, (ratios, rest) = gradient(params, rest, inputs, key)
        else:
            parts = split_batch(inputs, self._accumulate)
            if self._mesh is not None:  # Every device has a share of each part.
                shares = NamedSharding(self._mesh, PartitionSpec(None, AXES))
                parts = jax.lax.with_sharding_constraint(parts, shares)

            def add_part(carry: Any, part_and_key: Any) -> tuple[Any, Ratios]:
                grads, rest = carry
                part, part_key = part_and_key
                part_grads, (ratios, rest) = gradient(params, rest, part, part_key)
                grads = jax.tree.map(lambda a, b: a + b.astype(a.dtype), grads, part_grads)
                return (grads, rest), ratios

            # Sums are kept in float32 whatever the parameters are stored in.
            zeros = jax.tree.map(
                lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params
            )
            (grads, rest), ratios = jax.lax.scan(
                add_part, (zeros, rest), (parts, _keys_of_parts(key, self._accumulate))
            )
            ratios = jax.tree.map(lambda x: jnp.sum(x, axis=0), ratios)
        nnx.update(model, rest)
        return grads, ratios


def _keys_of_parts(key: Key[Array, ""], parts: int) -> Key[Array, " parts"]:
    """Returns the randomness of each part of a step."""
    if parts == 1:
        return key[None]
    # Not vmap, under which some generators give other bits.
    indices = jnp.arange(parts, dtype=jnp.int32)
    return jax.lax.map(lambda part: jax.random.fold_in(key, part), indices)


def split_batch(inputs: Any, parts: int) -> Any:
    """Returns `inputs` with every leading axis B cut into [parts, B / parts].

    Raises:
        ValueError: `parts` does not divide B.
    """

    def cut(x: Array) -> Array:
        if x.shape[0] % parts:
            raise ValueError(
                f"Stage.accumulate={parts} does not divide the batch's leading axis of {x.shape[0]}"
            )
        return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])

    return jax.tree.map(cut, inputs)
