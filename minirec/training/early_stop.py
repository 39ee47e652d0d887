"""Which evaluation was best, and when to stop waiting for a better one."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class EarlyStop:
    """Keeps the best value of a run and counts evaluations without progress in a stage.

    The best model is that of the whole run, unless each stage has its own; patience looks at the
    running stage alone, because a new data mixture may first cost what it later gives.

    Attributes:
        best: best value in the run, None before the first evaluation.
        best_step: its step.
        stage_best: best value in the stage.
        without_progress: evaluations since `stage_best`.
    """

    best: float | None = None
    best_step: int | None = None
    stage_best: float | None = None
    without_progress: int = 0

    def start_stage(self, *, forget_best: bool = False) -> None:
        """Forgets the stage before; with `forget_best` the best of the run so far as well."""
        if forget_best:
            self.best = self.best_step = None
        self.stage_best = None
        self.without_progress = 0

    def update(self, value: float, step: int) -> bool:
        """Takes an evaluation's value; returns whether it is the run's best. A tie is not."""
        if self.stage_best is None or value > self.stage_best:
            self.stage_best = value
            self.without_progress = 0
        else:
            self.without_progress += 1
        if self.best is None or value > self.best:
            self.best, self.best_step = value, step
            return True
        return False

    def exhausted(self, patience: int | None) -> bool:
        """Returns whether the stage has gone `patience` evaluations without progress."""
        return patience is not None and self.without_progress >= patience
