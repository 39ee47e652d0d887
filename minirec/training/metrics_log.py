"""`metrics.jsonl`: what a run measured, a JSON object a line, and the same for TensorBoard.

Every checkpoint holds the digest of the file until then; the last line of a finished run holds that
of all before it and of itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minirec.files import SEAL, DamagedError, atomic_path, naming, read_json_lines
from minirec.files.schema import COUNT, NUMBER, check

METRICS_FILE = "metrics.jsonl"
FINAL = "final"
"""The kind of the last line of a finished run."""
# What the readers of a line count on, and what those of a kind do; other fields are the task's.
_LINE = {"kind": str, "step": COUNT}
_KINDS = {
    "train": {"loss": (NUMBER, None)},
    FINAL: {
        "reason": str,
        "select_metric": str,
        "best_metric": (NUMBER, None),
        "best_step": (COUNT, None),
        "seconds": NUMBER,
    },
}


def is_wall_clock(field: str) -> bool:
    """Returns whether a field measures time: all others are equal in equal runs."""
    return field == "seconds" or field.endswith(("_seconds", "_per_second"))


def without_wall_clock(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a line that an exact repetition of the run repeats.

    The digest of the lines is not among them, since these hold times.
    """
    kept = (name for name in record if name != SEAL and not is_wall_clock(name))
    return {name: record[name] for name in kept}


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the lines of a run's `metrics.jsonl`, without one that a kill cut short.

    Lines have a `kind`: "train" (averages over the steps since the last such line), "eval" (what
    the task's `evaluate` returned, each name after "eval/"), "final" (the last line of a finished
    run) or "non_finite" (the step that stopped the run). A missing file has no lines.

    Raises:
        ValueError: a line is not JSON or lacks a field; the message names the file and the line.
        DamagedError: the run is finished, and the file is not as it was then.
    """
    path = Path(folder) / METRICS_FILE
    if not path.exists():
        return []
    records = []
    for number, record in read_json_lines(path, _LINE, may_be_cut=True):
        check(record, _KINDS.get(record["kind"], {}), f"{path}, line {number}")
        records.append(record)
    if records and records[-1]["kind"] == FINAL:
        whole = path.read_bytes().rstrip(b"\n")
        before = hashlib.sha256(whole[: whole.rfind(b"\n") + 1])
        final = {name: value for name, value in records[-1].items() if name != SEAL}
        if records[-1].get(SEAL) != _sealed(before, final):
            raise DamagedError(
                f"{path}: has been damaged or edited since the run ended: the digest in its last "
                "line is not that of the file; train again with the same command, which makes the "
                "lines anew from a checkpoint"
            )
    return records


def check_prefix(path: Path, num_bytes: int, digest: str) -> None:
    """Checks that a file still begins as it was when a checkpoint was saved.

    Args:
        path: `metrics.jsonl`.
        num_bytes: how long it was.
        digest: SHA-256 of it then, in hexadecimal.

    Raises:
        DamagedError: it does not; the message names the file.
    """
    data = path.read_bytes() if path.exists() else b""
    if len(data) < num_bytes:
        raise DamagedError(
            f"{path}: holds {len(data)} bytes, and held {num_bytes} when the checkpoint was saved: "
            "lines are missing"
        )
    if hashlib.sha256(data[:num_bytes]).hexdigest() != digest:
        raise DamagedError(
            f"{path}: its first {num_bytes} bytes have been damaged or edited since the checkpoint "
            "was saved"
        )


class MetricsLog:
    """Appends lines to `metrics.jsonl` and scalars to TensorBoard event files."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep_bytes: int,
        step: int,
        tensorboard: bool,
        enabled: bool = True,
        on_line: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """Opens the log for a run that goes on after `step`.

        Args:
            folder: the run's folder.
            keep_bytes: the file is cut back to these bytes (and to whole lines) first.
            step: the step they end with; TensorBoard forgets what comes after it.
            tensorboard: also write event files.
            enabled: False writes nothing: of several processes, one logs.
            on_line: called with each line after it is written.
        """
        self._file = self._writer = None
        self._on_line = on_line
        self._digest = hashlib.sha256()
        if not enabled:
            return
        folder = Path(folder)
        self._path = folder / METRICS_FILE
        self._digest.update(_cut(self._path, keep_bytes))
        self._file = self._path.open("ab")
        if tensorboard:
            if not keep_bytes:
                shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            from tensorboardX import SummaryWriter  # Not worth its import where it is not used.

            # The step in the name: files are named by the second, and one may not hide another.
            self._writer = SummaryWriter(
                str(folder / "tensorboard"), purge_step=step + 1, filename_suffix=f".{step}"
            )
            self._events = _Events(self._writer, folder / "tensorboard")

    @property
    def num_bytes(self) -> int:
        """The file's length so far."""
        return 0 if self._file is None else self._file.tell()

    @property
    def sha256(self) -> str:
        """The digest of the file so far, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a line. It needs `kind` and `step`; a number that JSON lacks becomes null."""
        if self._file is None:
            return
        plain = {name: _plain(value) for name, value in record.items()}
        if plain["kind"] == FINAL:
            plain[SEAL] = _sealed(self._digest, plain)
        line = json.dumps(plain, allow_nan=False).encode() + b"\n"
        with naming(self._path):
            self._file.write(line)
            self._file.flush()
        self._digest.update(line)
        if self._writer is not None:
            for name, value in record.items():
                if name != "step" and isinstance(value, float) and math.isfinite(value):
                    tag = name if "/" in name else f"{record['kind']}/{name}"
                    self._writer.add_scalar(tag, value, record["step"])
        if self._on_line is not None:
            self._on_line(record)

    def sync(self) -> None:
        """Makes sure that a checkpoint which counts on the lines so far can do so."""
        if self._file is not None:
            with naming(self._path):
                self._file.flush()
                os.fsync(self._file.fileno())
        if self._writer is not None:
            self._writer.flush()
            self._events.check()

    def close(self) -> None:
        """Writes out what is left."""
        self.sync()
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()


class _Events:
    """Stands between TensorBoard's thread and its file, and keeps the first error.

    The thread would print it and end, and the program wait for it for ever.
    """

    def __init__(self, writer: Any, folder: Path) -> None:
        self._error: OSError | None = None
        self._failed = False
        self._folder = folder
        queue = writer.file_writer.event_writer
        self._file = queue._ev_writer
        queue._ev_writer = queue._worker._record_writer = self

    def check(self) -> None:
        """Raises the error once, if there was one."""
        error, self._error = self._error, None
        if error is not None:
            with naming(self._folder):
                raise error

    def write_event(self, event: Any) -> None:
        """Writes an event, as the class that it stands before."""
        self._try(lambda: self._file.write_event(event))

    def flush(self) -> None:
        """Flushes the file."""
        self._try(self._file.flush)

    def close(self) -> None:
        """Closes the file."""
        self._try(self._file.close)

    def _try(self, work: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            work()
        except OSError as error:
            self._error, self._failed = error, True


def _cut(path: Path, keep_bytes: int) -> bytes:
    """Cuts the file back and returns what is left."""
    data = path.read_bytes() if path.exists() else b""
    kept = data[:keep_bytes]
    kept = kept[: kept.rfind(b"\n") + 1]
    if kept != data or not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_bytes(kept)
    return kept


def _sealed(before: Any, line: Mapping[str, Any]) -> str:
    """Returns the digest of what a hash has seen and of a line's fields after it."""
    whole = before.copy()
    whole.update(json.dumps(line).encode())
    return whole.hexdigest()


def _plain(value: Any) -> Any:
    """Returns a JSON value; NaN and infinities, which JSON has no word for, as None."""
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None
