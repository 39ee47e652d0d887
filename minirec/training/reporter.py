"""From a step's metrics on the device to lines of `metrics.jsonl`, without the device waiting."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax

from minirec.training.metrics_log import MetricsLog
from minirec.training.progress import ProgressBar
from minirec.training.step import StepMetrics


class NonFiniteError(FloatingPointError):
    """A loss, a gradient or the selecting metric was NaN or infinite."""


class Clock:
    """Seconds of a run, over all its processes.

    Attributes:
        working: seconds of this process outside of `paused`.
    """

    def __init__(self, seconds_before: float) -> None:
        self._before = seconds_before
        self._started = time.monotonic()
        self._paused = 0.0

    @property
    def seconds(self) -> float:
        """All seconds, evaluations and checkpoints included."""
        return self._before + time.monotonic() - self._started

    @property
    def working(self) -> float:
        """Seconds of this process, without the paused ones."""
        return time.monotonic() - self._started - self._paused

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """Keeps the body out of `working`, so that rates speak of training alone."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - began


class _Step(NamedTuple):
    step: int
    stage: str
    batch: Any
    examples: int
    metrics: StepMetrics


class Reporter:
    """Reads steps one behind the device, averages them and writes a line every `log_every` steps.

    While the host reads step k, the device works on step k + 1. A poisoned step is therefore seen
    one step late, but never after a checkpoint: `drain` comes before each.

    Attributes:
        window: (sum, denominator) by name, of the steps that no line has spoken for yet.
    """

    def __init__(
        self,
        log: MetricsLog,
        progress: ProgressBar,
        clock: Clock,
        *,
        log_every: int,
        describe_batch: Callable[[Any], str] | None,
        window: dict[str, list[float]],
    ) -> None:
        self.window = window
        self._log = log
        self._progress = progress
        self._clock = clock
        self._log_every = log_every
        self._describe_batch = describe_batch
        self._waiting: deque[_Step] = deque()
        self._examples = 0
        self._window_began = clock.working

    def add(self, step: int, stage: str, batch: Any, examples: int, metrics: StepMetrics) -> None:
        """Takes a step that has just been started and reads the one before it.

        Raises:
            NonFiniteError: that one's loss or gradient is NaN or infinite.
        """
        for value in jax.tree.leaves(metrics):
            value.copy_to_host_async()
        self._waiting.append(_Step(step, stage, batch, examples, metrics))
        while len(self._waiting) > 1:
            self._read(self._waiting.popleft())

    def drain(self) -> None:
        """Reads every step that was added.

        Raises:
            NonFiniteError: see `add`.
        """
        while self._waiting:
            self._read(self._waiting.popleft())

    def _read(self, step: _Step) -> None:
        metrics: StepMetrics = jax.device_get(step.metrics)
        if not metrics.finite:
            self._stop(step, metrics)
        for name, (total, denominator) in metrics.ratios.items():
            sums = self.window.setdefault(name, [0.0, 0.0])
            sums[0] += float(total)
            sums[1] += float(denominator)
        self._examples += step.examples
        rate = self._examples / max(self._clock.working - self._window_began, 1e-9)
        total, denominator = self.window["loss"]
        status = f"loss {_ratio(total, denominator):.4f}  {rate:,.0f} examples/s"
        self._progress.update(step.stage, step.step, status)
        if step.step % self._log_every == 0:
            self._log.write(
                {
                    "kind": "train",
                    "step": step.step,
                    "stage": step.stage,
                    "loss": _ratio(total, denominator),
                    **{name: _ratio(*sums) for name, sums in self.window.items() if name != "loss"},
                    "learning_rate": float(metrics.learning_rate),
                    "grad_norm": float(metrics.grad_norm),
                    "examples_per_second": rate,
                    "seconds": self._clock.seconds,
                }
            )
            self.window.clear()
            self._examples = 0
            self._window_began = self._clock.working

    def _stop(self, step: _Step, metrics: StepMetrics) -> None:
        place = (
            "pass describe_batch to have its place in the data named"
            if self._describe_batch is None
            else self._describe_batch(step.batch)
        )
        loss = _ratio(*map(float, metrics.ratios["loss"]))
        self._log.write(
            {
                "kind": "non_finite",
                "step": step.step,
                "stage": step.stage,
                "loss": loss,
                "grad_norm": float(metrics.grad_norm),
                "batch": place,
            }
        )
        raise NonFiniteError(
            f"loss {loss} and gradient norm {float(metrics.grad_norm)} at step {step.step} "
            f"(stage {step.stage!r}); its batch: {place}. Nothing of this step was saved"
        )


def _ratio(total: float, denominator: float) -> float:
    """Returns the average; 0 where nothing was counted."""
    if denominator:
        return total / denominator
    return 0.0 if total == 0 else math.nan
