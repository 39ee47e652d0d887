"""What a training run is told: its folder, its seed, its stages, and how often it does what."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, runtime_checkable

from flax import nnx

from minirec.files.schema import require_whole
from minirec.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a run is seeded, measured, saved and stopped. All periods are in optimizer steps.

    Attributes:
        folder: the run's folder (`W/runs/NAME`); everything the run writes lies in it.
        seed: seeds the randomness inside a training step (dropout). The model's first values and
            the order of the data are seeded by whoever makes them.
        eval_every: steps between two evaluations; one more closes every stage. 0: never.
        checkpoint_every: steps between two checkpoints; one more follows every evaluation and
            closes every stage. 0: only those.
        patience: a stage ends after so many evaluations in a row without a better value of the
            task's `select_metric`. None: it always runs to its end.
        log_every: steps a line of `metrics.jsonl` speaks for.
        keep_last: how many of the newest checkpoints stay; an older one is what a damaged newer
            one falls back to.
        overwrite: start anew and remove what an earlier run left in the folder. Not part of what
            makes two runs the same.
        best_of: "run": the best model is that of all stages; "stage": each stage begins to look for
            its own, which is what is left of it at its end (`on_stage_end` of `train`).
        tensorboard: also write TensorBoard event files.
        progress: show a progress bar, or lines where there is no terminal.
    """

    folder: str | os.PathLike[str]
    seed: int = 0
    eval_every: int = 1000
    checkpoint_every: int = 1000
    patience: int | None = None
    log_every: int = 50
    keep_last: int = 2
    best_of: Literal["run", "stage"] = "run"
    overwrite: bool = False
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in (
            ("seed", 0),
            ("eval_every", 0),
            ("checkpoint_every", 0),
            ("log_every", 1),
            ("keep_last", 1),
        ):
            require_whole(f"TrainConfig.{name}", getattr(self, name), least)
        if self.best_of not in ("run", "stage"):
            raise ValueError(f"TrainConfig.best_of={self.best_of!r}: must be 'run' or 'stage'")
        if self.patience is not None:
            require_whole("TrainConfig.patience", self.patience, 1)
            if not self.eval_every:
                raise ValueError(
                    f"TrainConfig.patience={self.patience} counts evaluations, but eval_every=0 "
                    "asks for none; set eval_every or patience=None"
                )


@runtime_checkable
class BatchIterator(Protocol):
    """Batches without end, whose place can be saved and found again, as Grain's iterators are."""

    def __next__(self) -> Any:
        """Returns the next batch: a mapping of NumPy arrays with a leading batch axis."""
        ...

    def get_state(self) -> Any:
        """Returns the place after the last batch returned, as a JSON value."""
        ...

    def set_state(self, state: Any) -> None:
        """Goes to a place that `get_state` returned."""
        ...


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of a run with its own data, optimizer and length; the model is carried over.

    Attributes:
        name: what logs call it; unique in a run.
        make_batches: makes the stage's batches from their beginning: a `BatchIterator`, or
            something whose `iter()` is one, such as a Grain dataset. It must not end before
            `num_steps` batches.
        num_steps: optimizer steps; each takes one batch.
        optimizer: a new optimizer starts with the stage.
        trainable: an NNX filter of the parameters that learn; the others stay as they are, without
            gradients and optimizer state.
        accumulate: the step walks through its batch in so many equal parts, in a row, and updates
            once with the gradient of the whole: less memory, the same result. Must divide the
            batch's leading axis.
    """

    name: str
    make_batches: Callable[[], Iterable[Any]]
    num_steps: int
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    accumulate: int = 1
    trainable: Any = nnx.Param

    def __post_init__(self) -> None:
        require_whole(f"Stage({self.name!r}).num_steps", self.num_steps, 1)
        require_whole(f"Stage({self.name!r}).accumulate", self.accumulate, 1)

    def batches(self) -> BatchIterator:
        """Returns a new iterator over the stage's batches.

        Raises:
            ValueError: it cannot save its place.
        """
        batches = iter(self.make_batches())
        if not isinstance(batches, BatchIterator):
            raise ValueError(
                f"stage {self.name!r}: make_batches gives a {type(batches).__name__}, which cannot "
                "save its place; an iterator with get_state() and set_state() is needed"
            )
        return batches


def check_stages(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Returns the stages as a tuple.

    Raises:
        ValueError: there is none, or two have one name.
    """
    stages = tuple(stages)
    names = [stage.name for stage in stages]
    if not stages:
        raise ValueError("stages is empty: a run needs at least one Stage")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two stages are called {name!r}: stage names must differ")
    return stages


def as_record(config: TrainConfig, stages: Iterable[Stage]) -> dict[str, Any]:
    """Returns what makes two runs the same, as a JSON value: the settings, not the place."""
    settings = dataclasses.asdict(config)
    for name in ("folder", "overwrite", "tensorboard", "progress"):
        settings.pop(name)
    if settings["best_of"] == "run":  # As runs have it that know of no other way.
        settings.pop("best_of")
    described = []
    for stage in stages:
        optimizer = dataclasses.asdict(stage.optimizer)
        if not optimizer["muon_learning_rate"]:  # As runs have it that know of AdamW alone.
            optimizer.pop("muon_learning_rate")
        described.append(
            {
                "name": stage.name,
                "num_steps": stage.num_steps,
                "accumulate": stage.accumulate,
                "optimizer": optimizer,
            }
        )
    return {"train": settings, "stages": described}
