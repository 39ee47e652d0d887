"""Monitors: what a run looks at beside its task, and perhaps stops for.

A monitor measures the model before the first step, every so many steps and at each stage's end.
What it finds are lines of `metrics.jsonl` of kind "monitor" (so TensorBoard and W&B have it, too).
It takes no randomness from training and changes nothing of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

KIND = "monitor"


@dataclasses.dataclass(frozen=True)
class Monitor:
    """Something to be watched while a model trains.

    Attributes:
        name: in lines and reports; unique in a run.
        measure: takes the model and returns its measures, and perhaps texts; the same model gives
            the same ones.
        every: steps between two measurements.
        watched: the measure that must not rise too far.
        max_rise: how far it may rise, as a share of its first value: .2 allows a fifth. None: no
            limit.
        stops: whether a rise beyond the limit ends the run; else it is only told.
    """

    name: str
    measure: Callable[[Any], Mapping[str, float | str]]
    every: int
    watched: str
    max_rise: float | None = None
    stops: bool = False

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: a period below 1, or a limit that is no number above 0.
        """
        if self.every < 1:
            raise ValueError(f"Monitor({self.name!r}).every={self.every}: must be at least 1")
        if self.max_rise is not None and not (math.isfinite(self.max_rise) and self.max_rise > 0):
            raise ValueError(
                f"Monitor({self.name!r}).max_rise={self.max_rise!r}: must be above 0, or None"
            )


class Watch:
    """The monitors of a run, with what they found first.

    Attributes:
        halts: whether a monitor wants the run to end.
    """

    def __init__(self, monitors: Sequence[Monitor], lines: Iterable[Mapping[str, Any]], step: int):
        """Takes up where the lines end.

        Args:
            monitors: what to watch.
            lines: of `metrics.jsonl` until now.
            step: the run's.

        Raises:
            ValueError: two monitors have one name.
        """
        names = [monitor.name for monitor in monitors]
        if len(set(names)) < len(names):
            raise ValueError(f"monitors are called {names}: names must differ")
        self._monitors = tuple(monitors)
        self._first: dict[str, float | None] = {}
        self._measured: dict[str, int] = {}
        self.halts = False
        by_name = {monitor.name: monitor for monitor in monitors}
        for line in lines:
            monitor = by_name.get(str(line.get("monitor"))) if line["kind"] == KIND else None
            if monitor is not None:
                # Only what the newest lines found may still be to be heeded.
                self.halts = self.halts and line["step"] == step
                self._take(monitor, line.get(_field(monitor)), line["step"])
        self.halts = self.halts and step in self._measured.values()

    def due(self, step: int, *, ended: bool) -> list[Monitor]:
        """Returns the monitors that measure now, each at most once a step."""
        return [
            monitor
            for monitor in self._monitors
            if (ended or step % monitor.every == 0) and self._measured.get(monitor.name) != step
        ]

    def measure(
        self, monitor: Monitor, model: Any, step: int, stage: str
    ) -> tuple[dict[str, Any], str]:
        """Measures, and returns a line for `metrics.jsonl` and what to tell, "" for nothing."""
        found = {
            f"{monitor.name}/{name}": value if isinstance(value, str) else float(value)
            for name, value in monitor.measure(model).items()
        }
        line = {"kind": KIND, "monitor": monitor.name, "step": step, "stage": stage, **found}
        if _field(monitor) not in found:
            raise ValueError(
                f"Monitor({monitor.name!r}).watched={monitor.watched!r} is not among what it "
                f"measures: {sorted(found)}"
            )
        return line, self._take(monitor, float(found[_field(monitor)]), step)

    def _take(self, monitor: Monitor, value: float | None, step: int) -> str:
        self._measured[monitor.name] = step
        first = self._first.setdefault(monitor.name, value)
        if monitor.max_rise is None or first is None:
            return ""
        # A measure that is no number has risen beyond all limits.
        risen = math.inf if value is None or not math.isfinite(value) else value / first - 1
        if risen <= monitor.max_rise:
            return ""
        if monitor.stops:
            self.halts = True
        shown = "no number" if value is None else f"{value:.4g}"
        return (
            f"step {step}: {_field(monitor)} is {shown}, {first:.4g} at first: it rose by more "
            f"than max_rise={monitor.max_rise}" + ("; the run ends" if monitor.stops else "")
        )


def _field(monitor: Monitor) -> str:
    return f"{monitor.name}/{monitor.watched}"
