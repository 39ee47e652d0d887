"""Checkpoints of a run: where it stands (`last/`) and the model that scored best (`best/`).

Orbax writes each beside its place and renames it, so a kill leaves the older ones readable.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx

from minirec.files.workplace import workplace
from minirec.training import processes

CHECKPOINTS = "checkpoints"


class MismatchError(ValueError):
    """A checkpoint belongs to another model."""


@dataclasses.dataclass
class Position:
    """Where a run stands, as a JSON value beside the arrays.

    With the seed, `step` is the random state: a step's randomness is drawn from the two.

    Attributes:
        step: steps of the run so far.
        stage: index of the stage that the run is in.
        step_in_stage: steps of that stage so far.
        seed: the run's seed.
        loader: what the stage's batches gave as their `get_state()`.
        evaluated_step: the step of the last evaluation, -1 before the first. Smaller than `step`
            where one is due there and was not done.
        early_stop: state of `EarlyStop`.
        window: the sums that the next log line will average.
        metrics_bytes: length of `metrics.jsonl`; what a later step wrote comes after it.
        seconds: training time so far, over all its processes.
    """

    step: int
    stage: int
    step_in_stage: int
    seed: int
    loader: Any
    evaluated_step: int
    early_stop: dict[str, Any]
    window: dict[str, list[float]]
    metrics_bytes: int
    seconds: float

    @classmethod
    def start(cls, seed: int) -> Position:
        """Returns the position before the first step."""
        return cls(
            step=0,
            stage=0,
            step_in_stage=0,
            seed=seed,
            loader=None,
            evaluated_step=-1,
            early_stop={},
            window={},
            metrics_bytes=0,
            seconds=0.0,
        )


class Checkpoints:
    """Saves and restores the checkpoints under `folder/checkpoints`."""

    def __init__(self, folder: str | os.PathLike[str], *, keep_last: int) -> None:
        root = Path(folder).absolute() / CHECKPOINTS
        self._last = _Steps(root / "last", keep=keep_last)
        self._best = _Steps(root / "best", keep=1)

    def save_last(self, model: nnx.State, optimizer: nnx.State, position: Position) -> None:
        """Saves the whole state at `position.step`, unless that step is there already."""
        # The same step of the same run is the same state, so there is nothing to replace; and
        # nothing may be removed that could turn out to be the only whole checkpoint.
        if position.step in self._last.steps():
            return
        try:
            json.dumps(position.loader)
        except TypeError as error:
            raise ValueError(
                f"the batches' get_state() must give a JSON value to be saved: {error}"
            ) from error
        self._last.save(
            position.step,
            model=ocp.args.StandardSave(to_arrays(model)),
            optimizer=ocp.args.StandardSave(to_arrays(optimizer)),
            position=ocp.args.JsonSave(dataclasses.asdict(position)),
        )

    def save_best(self, model: nnx.State, step: int) -> None:
        """Saves the model as the best so far, in place of every other."""
        # A best model ahead of the run is left where a damaged checkpoint sent the run back.
        self._best.discard(step)
        self._best.save(step, model=ocp.args.StandardSave(to_arrays(model)))

    def restore_newest(
        self, model: nnx.Module, make_optimizer: Callable[[int], nnx.Optimizer]
    ) -> tuple[Position, nnx.State, nnx.State] | None:
        """Returns the newest whole checkpoint and discards damaged ones after it.

        Args:
            model: gives the model's structure and its arrays' places on the devices.
            make_optimizer: makes the optimizer of the stage with the index given.

        Returns:
            (position, model state, optimizer state), or None where nothing was saved.

        Raises:
            MismatchError: the model is not the one that was saved; the message names the parameter.
            RuntimeError: there are checkpoints, and none is readable.
        """
        steps = sorted(self._last.steps(), reverse=True)
        model_state = nnx.state(model)
        for step in steps:
            found = self._read(step, model_state, make_optimizer)
            if processes.everywhere(found is not None):
                for damaged in steps[: steps.index(step)]:
                    self._last.discard(damaged)
                return found
        if steps:
            raise RuntimeError(
                f"{self._last.folder}: none of the checkpoints {steps} is readable; "
                "set overwrite=True to start anew"
            )
        return None

    def _read(
        self,
        step: int,
        model_state: nnx.State,
        make_optimizer: Callable[[int], nnx.Optimizer],
    ) -> tuple[Position, nnx.State, nnx.State] | None:
        """Returns one checkpoint, None where it is damaged."""
        try:
            position = Position(
                **self._last.restore(step, position=ocp.args.JsonRestore())["position"]
            )
            optimizer_state = nnx.state(make_optimizer(position.stage))
            arrays = self._last.restore(
                step,
                model=ocp.args.StandardRestore(self._last.wanted(step, "model", model_state)),
                optimizer=ocp.args.StandardRestore(
                    self._last.wanted(step, "optimizer", optimizer_state)
                ),
            )
        except MismatchError:
            raise
        except Exception as error:  # Whatever the damage looks like, an older one may do.
            folder = self._last.folder / str(step)
            print(f"{folder}: unreadable, trying an older one: {error}", file=sys.stderr)
            return None
        return (
            position,
            from_arrays(model_state, arrays["model"]),
            from_arrays(optimizer_state, arrays["optimizer"]),
        )

    def best_step(self) -> int | None:
        """Returns the step of the best model, None where there is none."""
        return max(self._best.steps(), default=None)

    def close(self) -> None:
        """Ends the background work of Orbax."""
        self._last.close()
        self._best.close()


class _Steps:
    """One folder of checkpoints by step, each of which is there whole or not at all."""

    def __init__(self, folder: Path, *, keep: int | None, read_only: bool = False) -> None:
        self.folder = folder
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                # Last and best are written in a fixed order, and the buffers are donated to the
                # next step: waiting is simplest.
                enable_async_checkpointing=False,
                # What looks like rubbish to a reader may be a save in progress.
                cleanup_tmp_directories=not read_only,
                create=not read_only,
            ),
            item_handlers={
                "model": ocp.StandardCheckpointHandler(),
                "optimizer": ocp.StandardCheckpointHandler(),
                "position": ocp.JsonCheckpointHandler(),
            },
        )

    def steps(self) -> list[int]:
        return list(self._manager.all_steps())

    def save(self, step: int, **items: Any) -> None:
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def wanted(self, step: int, item: str, state: nnx.State) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns what to restore for `state`, placed on devices as it is.

        Raises:
            MismatchError: the checkpoint does not hold just that.
        """
        wanted = {}
        # An abstract model goes to one device, wherever the checkpoint's arrays once lay.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        for path, variable in nnx.to_flat_state(state):
            value = variable.get_value()
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                value = jax.eval_shape(jax.random.key_data, value)
            wanted[_name(path)] = jax.ShapeDtypeStruct(
                value.shape, value.dtype, sharding=getattr(value, "sharding", None) or here
            )
        saved = self._manager.item_metadata(step)[item]
        place = f"{self.folder / str(step)}: the {item}"
        for name in sorted({*wanted, *saved.keys()}):
            if name not in saved:
                raise MismatchError(f"{place} saved there lacks {name!r}; is the config the run's?")
            if name not in wanted:
                raise MismatchError(
                    f"{place} saved there has {name!r}, the given one lacks it; "
                    "is the config the run's?"
                )
            if tuple(saved[name].shape) != wanted[name].shape:
                raise MismatchError(
                    f"{place} saved there has {name!r} of shape {tuple(saved[name].shape)}, the "
                    f"given one of shape {wanted[name].shape}; is the config the run's?"
                )
        return wanted

    def discard(self, step: int) -> None:
        """Removes a step at once, so that a kill half-way leaves no half checkpoint."""
        if step not in self.steps():
            return

        def remove() -> None:
            with workplace(self.folder.parent / "discarded") as trash:
                os.replace(self.folder / str(step), trash / str(step))

        processes.first_alone(remove)
        self._manager.reload()

    def close(self) -> None:
        self._manager.close()


def load_best[Model: nnx.Module](folder: str | os.PathLike[str], model: Model) -> Model:
    """Returns a run's best model.

    Args:
        folder: the run's folder.
        model: a model of the run's configuration, concrete or abstract
            (`nnx.eval_shape(lambda: SidDecoder(config, rngs=nnx.Rngs(0)))`). It is not changed.

    Returns:
        A new model with the values that selected best, or those of the last step where the run
        never evaluated.

    Raises:
        FileNotFoundError: the run has saved no best model.
        MismatchError: the model does not match the checkpoint; the message names the parameter.
    """
    return _load(Path(folder).absolute() / CHECKPOINTS / "best", model)


def best_step(folder: str | os.PathLike[str]) -> int:
    """Returns after how many steps a run's best model was saved.

    Raises:
        FileNotFoundError: the run has saved no best model.
    """
    return _newest(Path(folder).absolute() / CHECKPOINTS / "best")


def _newest(folder: Path) -> int:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no checkpoint; train the run first")
    saved = _Steps(folder, keep=None, read_only=True)
    try:
        if not (steps := saved.steps()):
            raise FileNotFoundError(f"{folder}: no checkpoint; train the run first")
        return max(steps)
    finally:
        saved.close()


def load_last[Model: nnx.Module](folder: str | os.PathLike[str], model: Model) -> Model:
    """Returns the model of a run's newest checkpoint; see `load_best`."""
    return _load(Path(folder).absolute() / CHECKPOINTS / "last", model)


def _load[Model: nnx.Module](folder: Path, model: Model) -> Model:
    step = _newest(folder)
    saved = _Steps(folder, keep=None, read_only=True)
    try:
        graph, state = nnx.split(model)
        wanted = saved.wanted(step, "model", state)
        restored = saved.restore(step, model=ocp.args.StandardRestore(wanted))
        return nnx.merge(graph, from_arrays(state, restored["model"]), copy=True)
    finally:
        saved.close()


def to_arrays(state: nnx.State) -> dict[str, jax.Array]:
    """Returns a state as arrays by path ("layers.norm.scale"); random keys as their words."""
    arrays = {}
    for path, variable in nnx.to_flat_state(state):
        value = variable.get_value()
        is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        arrays[_name(path)] = jax.random.key_data(value) if is_key else value
    return arrays


def from_arrays(like: nnx.State, arrays: dict[str, jax.Array]) -> nnx.State:
    """Returns a state built as `like` is, with the values that `to_arrays` gave."""
    flat = []
    for path, variable in nnx.to_flat_state(like):
        value = arrays[_name(path)]
        if jnp.issubdtype(variable.get_value().dtype, jax.dtypes.prng_key):
            value = jax.random.wrap_key_data(value, impl=jax.random.key_impl(variable.get_value()))
        flat.append((path, variable.replace(value)))
    return nnx.from_flat_state(flat)


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path)
