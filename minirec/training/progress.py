"""A progress bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressBar:
    """Shows how far something is, a status and the time left, on standard error."""

    def __init__(
        self, total: int, *, done: int = 0, enabled: bool = True, line_every: float = 10.0
    ) -> None:
        """Makes the bar of `total` steps (or users, or whatever is counted).

        Args:
            total: steps in all.
            done: steps that are behind it already.
            enabled: False shows nothing at all.
            line_every: seconds between two lines where there is no terminal.
        """
        self._total = total
        self._first = done
        self._enabled = enabled
        self._line_every = line_every
        self._console = Console(stderr=True)
        self._started = time.monotonic()
        self._last_line = -float("inf")
        self._bar: Progress | None = None
        if enabled and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[status]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("train", total=total, completed=done, status="")

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, stage: str, step: int, status: str) -> None:
        """Shows that `step` of `total` are done, with what there is to say of it."""
        if self._bar is not None:
            self._bar.update(self._task, description=stage, completed=step, status=status)
        elif self._enabled:
            now = time.monotonic()
            if now - self._last_line >= self._line_every or step == self._total:
                self._last_line = now
                self._print(f"{stage}  {step}/{self._total}  {status}  {self._left(step, now)}")

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._enabled:
            self._print(text)

    def _print(self, text: str) -> None:
        # soft_wrap: a log file has no width to fit into.
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _left(self, step: int, now: float) -> str:
        done = step - self._first
        if done <= 0:
            return "time left unknown"
        seconds = int((now - self._started) / done * (self._total - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"
