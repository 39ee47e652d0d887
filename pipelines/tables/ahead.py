"""Makes the next element of an iterator while the one before is worked on."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator

_here = threading.local()


def is_unwanted() -> bool:
    """Returns whether this thread makes elements that nobody takes any more; see `ahead`."""
    is_over = getattr(_here, "is_over", None)
    return is_over is not None and is_over.is_set()


@contextlib.contextmanager
def ahead[T](make: Callable[[], Iterator[T]], size: int = 1) -> Generator[Iterator[T]]:
    """Yields an iterator whose elements a thread makes ahead, at most `size` that nobody took.

    An error of the thread is raised where its element would have come. On leaving the block the
    thread stops at its next element, or earlier where what makes it asks `is_unwanted`.

    Args:
        make: returns the iterator; called in the thread.
        size: how many elements wait at most.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(size)
    is_over = threading.Event()

    def offer(is_element: bool, value: T | BaseException | None) -> bool:
        while not is_over.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((is_element, value), timeout=0.1)
                return True
        return False

    def work() -> None:
        _here.is_over = is_over
        try:
            for element in make():
                if not offer(True, element):
                    return
        except BaseException as error:
            offer(False, error)
        else:
            offer(False, None)

    def elements() -> Iterator[T]:
        while True:
            is_element, value = ready.get()
            if is_element:
                yield value  # type: ignore[misc]
            elif value is None:
                return
            else:
                raise value  # type: ignore[misc]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield elements()
    finally:
        is_over.set()
        thread.join()
