"""Checkpoints of a run: where it stands (`last/`) and the model that scored best (`best/`)."""

from __future__ import annotations

import dataclasses
import hashlib
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

from minirec import files
from minirec.files.schema import COUNT, NUMBER, SHA256, WHOLE, Kind, check
from minirec.training import processes
from minirec.training.step_folders import MismatchError, StepFolders, name_of

CHECKPOINTS = "checkpoints"
_REMEDY = (
    "train again with the same command, which mends what can be mended from the run's other "
    "checkpoints, or with --overwrite"
)
_SUMS = Kind(
    "a list of two numbers",  # NaN and infinities are some: a sum may have come to that.
    lambda value: (
        type(value) is list and len(value) == 2 and all(type(n) in (int, float) for n in value)
    ),
)
_POSITION = {
    "step": COUNT,
    "stage": COUNT,
    "step_in_stage": COUNT,
    "seed": WHOLE,
    "loader": object,
    "evaluated_step": WHOLE,
    "early_stop": {
        "best?": (NUMBER, None),
        "best_step?": (COUNT, None),
        "stage_best?": (NUMBER, None),
        "without_progress?": COUNT,
    },
    "window": {str: _SUMS},
    "metrics_bytes": COUNT,
    "metrics_sha256": SHA256,
    "seconds": NUMBER,
}


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
        metrics_sha256: digest of these bytes.
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
    metrics_sha256: str
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
            metrics_sha256=hashlib.sha256().hexdigest(),
            seconds=0.0,
        )

    @classmethod
    def from_json(cls, value: Any, where: str) -> Position:
        """Returns the position that a file holds.

        Raises:
            DamagedError: it holds none; the message names `where`, the file, field and value.
        """
        try:
            check(value, _POSITION, where, exact=True)
        except ValueError as error:
            raise files.DamagedError(str(error)) from error
        return cls(**value)


class Checkpoints:
    """Saves and restores the checkpoints under `folder/checkpoints`."""

    def __init__(self, folder: str | os.PathLike[str], *, keep_last: int) -> None:
        root = Path(folder).absolute() / CHECKPOINTS
        self._last = StepFolders(root / "last", keep=keep_last)
        self._best = StepFolders(root / "best", keep=1)

    @property
    def last_folder(self) -> Path:
        """Where the checkpoints of the whole state lie, each in a folder called by its step."""
        return self._last.folder

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
        self._best.discard(step)
        self._best.save(step, model=ocp.args.StandardSave(to_arrays(model)))

    def restore_newest(
        self,
        model: nnx.Module,
        make_optimizer: Callable[[int], nnx.Optimizer],
        check_record: Callable[[Position], None] = lambda position: None,
    ) -> tuple[Position, nnx.State, nnx.State] | None:
        """Returns the newest whole checkpoint and discards damaged ones after it.

        Whatever is wrong with a newer one is said on standard error.

        Args:
            model: gives the model's structure and its arrays' places on the devices.
            make_optimizer: makes the optimizer of the stage with the index given.
            check_record: raises DamagedError where what the run wrote until then is not whole; the
                first process calls it.

        Returns:
            (position, model state, optimizer state), or None where nothing was saved.

        Raises:
            MismatchError: the model is not the one that was saved; the message names the parameter.
            DamagedError: there are checkpoints, and none is whole; the message names their files.
        """
        steps = sorted(self._last.steps(), reverse=True)
        problems = []
        for step in steps:
            found = self._read(step, model, make_optimizer, check_record)
            if processes.everywhere(not isinstance(found, Exception)):
                for damaged in steps[: steps.index(step)]:
                    self._last.discard(damaged)
                assert not isinstance(found, Exception)
                return found
            problems.append(f"step {step}: {found}")
            if processes.is_first():
                print(f"step {step}: {found}; trying an older one", file=sys.stderr)
        if steps:
            raise files.DamagedError(
                f"{self._last.folder}: none of the checkpoints is whole ({'; '.join(problems)}); "
                "put the files back, or set overwrite=True (--overwrite) to start anew"
            )
        return None

    def restore_step(
        self, model: nnx.Module, make_optimizer: Callable[[int], nnx.Optimizer], step: int
    ) -> tuple[Position, nnx.State, nnx.State] | None:
        """Returns the checkpoint of `step`, None where it is not there or not whole."""
        if step not in self._last.steps():
            return None
        found = self._read(step, model, make_optimizer, lambda position: None)
        whole = processes.everywhere(not isinstance(found, Exception))
        return None if not whole or isinstance(found, Exception) else found

    def _read(
        self,
        step: int,
        model: nnx.Module,
        make_optimizer: Callable[[int], nnx.Optimizer],
        check_record: Callable[[Position], None],
    ) -> tuple[Position, nnx.State, nnx.State] | Exception:
        """Returns one checkpoint, or what is wrong with it."""
        model_state = nnx.state(model)
        try:
            with self._last.reading(step, "this checkpoint is not restored"):
                position = self._position(step)
                processes.first_alone(lambda: check_record(position))
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
            return error
        return (
            position,
            from_arrays(model_state, arrays["model"]),
            from_arrays(optimizer_state, arrays["optimizer"]),
        )

    def _position(self, step: int) -> Position:
        restored = self._last.restore(step, position=ocp.args.JsonRestore())["position"]
        where = self._last.folder / str(step) / "position" / "metadata"
        position = Position.from_json(restored, str(where))
        if position.step != step:
            raise files.DamagedError(f"{where}: step is {position.step}; expected {step}")
        return position

    def best_step(self) -> int | None:
        """Returns the step of the best model, None where there is none that is whole.

        What is wrong with one is said on standard error.
        """
        for step in reversed(self._best.steps()):
            try:
                self._best.check(step, "the best model is looked for among the last checkpoints")
            except ValueError as error:
                if processes.is_first():
                    print(error, file=sys.stderr)
            else:
                return step
        return None

    def close(self) -> None:
        """Ends the background work of Orbax."""
        self._last.close()
        self._best.close()


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
        DamagedError: a file of the checkpoint is not as it was written; the message names it.
    """
    return _load(Path(folder).absolute() / CHECKPOINTS / "best", model)


def best_step(folder: str | os.PathLike[str]) -> int:
    """Returns after how many steps a run's best model was saved.

    Raises:
        FileNotFoundError: the run has saved no best model.
    """
    return _newest(StepFolders(Path(folder).absolute() / CHECKPOINTS / "best", keep=None))


def load_last[Model: nnx.Module](folder: str | os.PathLike[str], model: Model) -> Model:
    """Returns the model of a run's newest checkpoint; see `load_best`."""
    return _load(Path(folder).absolute() / CHECKPOINTS / "last", model)


def checkpoints_are_whole(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a run's newest checkpoint and its best model are there and whole.

    What is wrong is said on standard error. Of several processes each must call it.
    """
    for name in ("last", "best"):
        saved = StepFolders(Path(folder).absolute() / CHECKPOINTS / name, keep=None)
        try:
            saved.check(_newest(saved), "trying to mend it")
        except (ValueError, FileNotFoundError) as error:
            if processes.is_first():
                print(error, file=sys.stderr)
            return False
        finally:
            saved.close()
    return True


def _newest(saved: StepFolders) -> int:
    if not (steps := saved.steps()):
        raise FileNotFoundError(f"{saved.folder}: no checkpoint; train the run first")
    return steps[-1]


def _load[Model: nnx.Module](folder: Path, model: Model) -> Model:
    saved = StepFolders(folder, keep=None)
    try:
        step = _newest(saved)
        graph, state = nnx.split(model)
        with saved.reading(step, _REMEDY):
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
        arrays[name_of(path)] = jax.random.key_data(value) if is_key else value
    return arrays


def from_arrays(like: nnx.State, arrays: dict[str, jax.Array]) -> nnx.State:
    """Returns a state built as `like` is, with the values that `to_arrays` gave."""
    flat = []
    for path, variable in nnx.to_flat_state(like):
        value = arrays[name_of(path)]
        if jnp.issubdtype(variable.get_value().dtype, jax.dtypes.prng_key):
            value = jax.random.wrap_key_data(value, impl=jax.random.key_impl(variable.get_value()))
        flat.append((path, variable.replace(value)))
    return nnx.from_flat_state(flat)
