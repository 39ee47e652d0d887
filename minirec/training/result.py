"""How a run ended, as its caller and its last line of `metrics.jsonl` know it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_RECORDED = ("step", "reason", "select_metric", "best_metric", "best_step", "seconds")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run, or this part of it in one process, ended.

    Attributes:
        step: steps of the run so far.
        reason: "finished", "early_stop" (the last stage ran out of patience) or "interrupted" (a
            signal came; the state is saved and the same call goes on from it).
        select_metric: name of the metric that selects.
        best_metric: its best value, None where the run never evaluated.
        best_step: the step of `best_metric`.
        seconds: time over all its processes.
        resumed_from: the step that this process went on from, None if it was the first.
        traces: how often this process traced a step; once a stage unless shapes change.
    """

    step: int
    reason: str
    select_metric: str
    best_metric: float | None
    best_step: int | None
    seconds: float
    resumed_from: int | None = None
    traces: int = 0

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the process before the run's end."""
        return self.reason == "interrupted"

    def as_record(self) -> dict[str, Any]:
        """Returns what `metrics.jsonl` keeps of it."""
        return {name: getattr(self, name) for name in _RECORDED}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainResult:
        """Returns the result that `as_record` was made of, but for the process's own numbers."""
        return cls(**{name: record[name] for name in _RECORDED})

    def describe(self) -> str:
        """Returns it in words."""
        text = f"{self.reason} after step {self.step}"
        if self.best_metric is None:
            return text
        return f"{text}, best {self.select_metric} {self.best_metric:.4f} at {self.best_step}"
