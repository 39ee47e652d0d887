"""A checkpoint that cannot be written is one error that says where and why."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path

_THREADS = ("absl", "asyncio")
# TensorStore's words for an error of the system: "[OS error 28: ENOSPC No space left on device]".
_OS_ERROR = re.compile(r"OS error (\d+)")


@contextlib.contextmanager
def one_error(folder: Path) -> Generator[None]:
    """Keeps the threads that write a checkpoint from logging the error that the body raises.

    Orbax and asyncio log one a parameter, each with its traceback, and some only when they are
    collected as garbage.

    Args:
        folder: where the checkpoint goes.

    Raises:
        OSError: in place of the body's error, where it comes from the system: a full disk, say.
    """
    held: list[tuple[logging.Logger, logging.LogRecord]] = []
    with contextlib.ExitStack() as stack:
        for name in _THREADS:
            stack.enter_context(_holding(logging.getLogger(name), held))
        try:
            yield
        except Exception as error:
            number = _system_error(error)
            if number is None:
                raise
            gc.collect()
            raise OSError(number, os.strerror(number), str(folder)) from error
    for logger, record in held:  # It did not fail, or for another reason.
        logger.handle(record)


@contextlib.contextmanager
def _holding(
    logger: logging.Logger, held: list[tuple[logging.Logger, logging.LogRecord]]
) -> Generator[None]:
    """Keeps the errors that a logger is given in the body."""

    def passes(record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return True
        held.append((logger, record))
        return False

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


def _system_error(error: BaseException) -> int | None:
    """Returns the number of the system's error that another came from; None: from no such."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno is not None:
            return one.errno
        if match := _OS_ERROR.search(str(one)):
            return int(match[1])
        if "RESOURCE_EXHAUSTED" in str(one) and "writing" in str(one):
            return errno.ENOSPC
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for one in error.exceptions:
                yield from _chain(one)
        error = error.__cause__ or error.__context__
