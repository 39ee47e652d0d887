"""A progress bar over users on standard error; a line now and then where there is no terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 10.0


@contextlib.contextmanager
def user_progress(title: str, num_users: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with each number of users that are done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title, num_users, console)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("users"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=num_users)
        yield lambda count: progress.advance(task, count)


def _lines(title: str, num_users: int, console: Console) -> Callable[[int], None]:
    done = 0
    started = last = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S or done == num_users:
            last = now
            console.print(
                f"{title}: {done}/{num_users} users, {done / (now - started):.0f} a second"
            )

    return advance
