"""Running commands: how they end, and what they say, comes through."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        arguments: program and arguments.
        unless: a command that makes this one needless if it succeeds.
    """

    arguments: tuple[str, ...]
    unless: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns the command as a line for a POSIX shell."""
        line = shlex.join(self.arguments)
        return f"{shlex.join(self.unless)} > /dev/null 2>&1 || {line}" if self.unless else line


class CommandFailedError(Exception):
    """A command ended with another status than 0.

    Attributes:
        status: its exit status; 128 + N where signal N ended it.
        errors: what it wrote to stderr, where that was kept.
    """

    def __init__(self, command: Command, status: int, errors: str = "") -> None:
        super().__init__(f"exit status {status}: {shlex.join(command.arguments[:6])} …")
        self.status = status
        self.errors = errors


def run(commands: Iterable[Command], *, keep_errors: bool = False) -> None:
    """Runs commands one after the other; stdout and stderr are this program's.

    Args:
        commands: what to run.
        keep_errors: stderr comes through once a command has succeeded; of one that fails the
            error has it.

    Raises:
        CommandFailedError: one failed; those after it do not run.
        FileNotFoundError: a program is not there.
    """
    for command in commands:
        if command.unless and _call(command.unless, quiet=True).returncode == 0:
            continue
        print(f"+ {command}", file=sys.stderr, flush=True)
        done = _call(command.arguments, keep_errors=keep_errors)
        if done.returncode:
            raise CommandFailedError(command, _exit_status(done.returncode), done.stderr or "")
        if done.stderr:
            print(done.stderr, end="", file=sys.stderr, flush=True)


def read(command: Command) -> str:
    """Returns what a command writes to stdout.

    Raises:
        CommandFailedError: it failed; `errors` has what it wrote to stderr.
        FileNotFoundError: the program is not there.
    """
    done = _call(command.arguments, quiet=True)
    if done.returncode:
        raise CommandFailedError(command, _exit_status(done.returncode), done.stderr)
    return done.stdout


def _call(
    arguments: Sequence[str], *, quiet: bool = False, keep_errors: bool = False
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            arguments,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.PIPE if quiet or keep_errors else None,
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{arguments[0]}: not found; install the Google Cloud CLI and `gcloud auth login`"
            if arguments[0] == "gcloud"
            else f"{arguments[0]}: not found"
        ) from error


def _exit_status(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode
