"""A run's folder belongs to one configuration, and to one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from minirec.files import read_json, write_json
from minirec.training.checkpoints import CHECKPOINTS
from minirec.training.metrics_log import METRICS_FILE

CONFIG_FILE = "config.json"
MISSING = "(none)"


class RunFolderError(ValueError):
    """The folder holds another run than the one asked for."""


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str], *, wait: bool = False) -> Generator[None]:
    """Holds a run's folder, made where it is missing; the hold ends with the process at latest.

    Args:
        folder: the run's folder. Its `.lock` says which process holds it.
        wait: wait for another process that holds it, and say so on stderr.

    Raises:
        RunFolderError: another process trains there, and `wait` is False.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = file.read(200).strip() or "another process"
            if not wait:
                raise RunFolderError(
                    f"{folder}: another process is training in this folder ({who}); "
                    "wait for it or choose another folder"
                ) from error
            print(f"{folder}: waiting for {who}, which works there", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # A file system without locks: go on without.
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def claim(folder: str | os.PathLike[str], record: Mapping[str, Any], *, overwrite: bool) -> None:
    """Makes the folder that of the run that `record` describes: writes or compares `config.json`.

    Args:
        folder: the run's folder.
        record: what makes two runs the same, a JSON object.
        overwrite: remove what an earlier run left (its config, checkpoints and metrics) first.

    Raises:
        RunFolderError: the folder holds another run; the message names each field that differs
            with both values.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    record = json.loads(json.dumps(record, allow_nan=False))
    if overwrite:
        # The config goes last: as long as something of the old run is there, so is its name.
        for name in (CHECKPOINTS, "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (METRICS_FILE, CONFIG_FILE):
            (folder / name).unlink(missing_ok=True)
    if not path.exists():
        if (folder / CHECKPOINTS).exists():
            raise RunFolderError(
                f"{folder}: holds checkpoints but no {CONFIG_FILE}, so nothing says what they "
                "belong to; choose another folder or set overwrite=True (--overwrite)"
            )
        write_json(path, record)
        return
    before = read_json(path)
    differences = compare(before, record)
    if differences:
        lines = [f"  {name}: {old} there, {new} now" for name, old, new in differences]
        raise RunFolderError(
            f"{path}: this folder holds a run of another configuration:\n"
            + "\n".join(lines)
            + "\nGo on with that configuration, choose another folder, or set overwrite=True "
            "(--overwrite) to start anew"
        )


def compare(before: Any, after: Any, name: str = "") -> list[tuple[str, str, str]]:
    """Returns (field, value before, value after) wherever two JSON values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(key for key in after if key not in before)]
        pairs = [(key, before.get(key, _MISSING), after.get(key, _MISSING)) for key in names]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(i), old, new) for i, (old, new) in enumerate(zip(before, after, strict=True))]
    else:
        return [] if before == after else [(name, _show(before), _show(after))]
    return [
        difference
        for key, old, new in pairs
        for difference in compare(old, new, f"{name}.{key}" if name else key)
    ]


_MISSING = object()


def _show(value: Any) -> str:
    return MISSING if value is _MISSING else json.dumps(value, ensure_ascii=False)
