"""A run's folder belongs to one configuration, and to one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from minirec.files import read_sealed, write_sealed
from minirec.files.schema import SHA256
from minirec.training.checkpoints import CHECKPOINTS
from minirec.training.metrics_log import FINAL, METRICS_FILE, read_metrics

CONFIG_FILE = "config.json"
OVERWRITE_FILE = "overwrite.json"
MISSING = "(none)"
_OVERWRITE = {"by": SHA256, "removed": bool}


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
        overwrite: remove what an earlier run left (its config, checkpoints and metrics) first; see
            `overwrite_once`.

    Raises:
        RunFolderError: the folder holds another run; the message names each field that differs
            with both values.
        DamagedError: `config.json` is not as it was written.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    record = json.loads(json.dumps(record, allow_nan=False))

    def remove() -> None:
        # The config goes last: as long as something of the old run is there, so is its name.
        for name in (CHECKPOINTS, "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (METRICS_FILE, CONFIG_FILE):
            (folder / name).unlink(missing_ok=True)

    overwrite_once(
        folder, record, asked=overwrite, finished=lambda: _is_finished(folder), remove=remove
    )
    if not path.exists():
        if (folder / CHECKPOINTS).exists():
            raise RunFolderError(
                f"{folder}: holds checkpoints but no {CONFIG_FILE}, so nothing says what they "
                "belong to; choose another folder or set overwrite=True (--overwrite)"
            )
        write_sealed(path, record)
        return
    before = read_config(folder)
    differences = compare(before, record)
    if differences:
        lines = [f"  {name}: {old} there, {new} now" for name, old, new in differences]
        raise RunFolderError(
            f"{path}: this folder holds a run of another configuration:\n"
            + "\n".join(lines)
            + "\nGo on with that configuration, choose another folder, or set overwrite=True "
            "(--overwrite) to start anew"
        )


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the record of the run in a folder.

    Raises:
        DamagedError: `config.json` is not as it was written.
        FileNotFoundError: there is none.
    """
    return read_sealed(
        Path(folder) / CONFIG_FILE,
        "put the file back, or start anew: train with overwrite=True (--overwrite)",
    )


def has_begun(folder: str | os.PathLike[str]) -> bool:
    """Returns whether the run in a folder has left a line of metrics or a checkpoint yet.

    Before that, whatever else lies there is not of this run.
    """
    metrics, last = Path(folder) / METRICS_FILE, Path(folder) / CHECKPOINTS / "last"
    return (metrics.is_file() and metrics.stat().st_size > 0) or (
        last.is_dir() and any(last.iterdir())
    )


def overwrite_once(
    folder: Path,
    record: Any,
    *,
    asked: bool,
    finished: Callable[[], bool],
    remove: Callable[[], None],
) -> None:
    """Removes what lies in a folder, once, however often the command that asks for it is killed.

    `overwrite.json` keeps for whom that was begun and whether it is done.

    Args:
        folder: the folder.
        record: a JSON value that tells one command's work from another's.
        asked: whether the command says `--overwrite`.
        finished: whether the work in the folder, which is the record's, has come to its end: then
            it is overwritten again.
        remove: removes what is to be overwritten; it may have been killed half-way before.

    Raises:
        RunFolderError: an overwriting by another command was killed half-way.
        DamagedError: `overwrite.json` is not as it was written.
    """
    path = folder / OVERWRITE_FILE
    text = json.dumps(record, sort_keys=True, allow_nan=False)
    mine = hashlib.sha256(text.encode()).hexdigest()
    before = read_sealed(path, "remove it", _OVERWRITE) if path.is_file() else None
    if before is not None and before["by"] == mine:
        if before["removed"] and not (asked and finished()):
            if asked:
                print(
                    f"{folder}: going on with the run that --overwrite began here; remove the "
                    "folder to start from nothing",
                    file=sys.stderr,
                )
            return
    elif not asked:
        if before is not None and not before["removed"]:
            raise RunFolderError(
                f"{folder}: a command of another configuration began to overwrite what lies here "
                "and was killed; go on with that command, or set overwrite=True (--overwrite)"
            )
        return
    write_sealed(path, {"by": mine, "removed": False})
    remove()
    write_sealed(path, {"by": mine, "removed": True})


def forget_overwrite(folder: str | os.PathLike[str]) -> None:
    """Lets the next `--overwrite` start anew, since there is nothing whole to go on with."""
    (Path(folder) / OVERWRITE_FILE).unlink(missing_ok=True)


def _is_finished(folder: Path) -> bool:
    try:
        lines = read_metrics(folder)
    except ValueError:  # Damaged: going on mends it, or says that there is nothing to go on with.
        return False
    return bool(lines) and lines[-1]["kind"] == FINAL


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
