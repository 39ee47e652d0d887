"""The losses of a stage's first steps, to set one start of a model beside another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flax import nnx
from jax.sharding import Mesh

from minirec.models.sharding import place, put_rows
from minirec.training.config import Stage
from minirec.training.loop import new_optimizer
from minirec.training.optimizer import make_schedule
from minirec.training.step import TrainState, TrainStep
from minirec.training.tasks.task import Task, array_inputs


def first_losses(
    starts: Mapping[str, Callable[[], nnx.Module]],
    task: Task,
    stage: Stage,
    num_steps: int,
    *,
    seed: int,
    mesh: Mesh | None = None,
) -> dict[str, list[float]]:
    """Returns, by start, the mean loss of each of a stage's first steps, as `train` takes them.

    Args:
        starts: each makes one model; they differ in nothing but their values.
        task: gives the loss.
        stage: the batches, the same for all, the optimizer and its schedule.
        num_steps: how many steps, at least one.
        seed: of the run.
        mesh: as for `train`.
    """
    inputs_of = getattr(task, "inputs", array_inputs)
    step: TrainStep | None = None
    losses: dict[str, list[float]] = {}
    for name, make_model in starts.items():
        model = make_model()
        place(model, mesh)
        optimizer = new_optimizer(model, stage, mesh)
        if step is None:
            step = TrainStep(
                model,
                optimizer,
                task,
                schedule=make_schedule(stage.optimizer, stage.num_steps),
                accumulate=stage.accumulate,
                seed=seed,
                mesh=mesh,
                trainable=stage.trainable,
            )
            state = step.start()
        else:
            state = TrainState(nnx.state(model), nnx.state(optimizer))
        batches, losses[name] = stage.batches(), []
        for number in range(num_steps):
            inputs = inputs_of(next(batches))
            if mesh is not None:
                inputs = put_rows(inputs, mesh)
            state, metrics = step(state, inputs, number)
            total, count = metrics.ratios["loss"]
            losses[name].append(float(total) / max(float(count), 1.0))
        # Or the next model and optimizer would be made beside these.
        del model, optimizer, state, metrics, batches
    return losses
