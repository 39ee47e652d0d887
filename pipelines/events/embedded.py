"""An event store in this process, fed by its log in SQLite: the default where there is no Kafka."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from minirec.files.workplace import locked
from pipelines.events.by_name import Appended, StoreReads, UnavailableError
from pipelines.events.log import EventLog
from pipelines.events.messages import decode
from pipelines.events.settings import StoreSettings
from pipelines.events.snapshot import open_store, write_snapshot

_LOG = logging.getLogger(__name__)
_MOST_AT_ONCE = 256  # Appends that share one commit.
_Waiting = tuple[np.ndarray, "concurrent.futures.Future[None]"]


class EmbeddedEvents(StoreReads):
    """A store with its log; one thread writes, any number may append and read.

    Args:
        folder: where log and snapshots lie.
        settings: what the store keeps.
        half_life_ms: see `StoreReads`.
        snapshot_every: events between two snapshots; the log is cut off behind the older of them.
        clock: milliseconds since 1970.

    Raises:
        ValueError: the snapshot was written with other settings.
        OSError: log or snapshot cannot be read or written, or another store has the folder open.
    """

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        half_life_ms: float,
        *,
        snapshot_every: int = 100_000,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):
        super().__init__(half_life_ms, clock)
        self._folder, self._settings, self._every = folder, settings, snapshot_every
        self._queue: queue.Queue[_Waiting | None] = queue.Queue()
        self._lock = threading.Lock()
        self._closed = False
        self._held = contextlib.ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        try:  # A second store would save a snapshot that lacks what the first one took.
            self._held.enter_context(locked(folder, wait=False))
        except BlockingIOError as error:
            raise OSError(
                f"{folder}: another program has this event store open; end it, or take another "
                "--workdir"
            ) from error
        opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        # The log belongs to the thread that opened it.
        self._writer = threading.Thread(
            target=self._write, args=(opened,), name="events", daemon=True
        )
        self._writer.start()
        try:
            opened.result()
        except BaseException:
            self._held.close()
            raise

    def append(self, messages: Sequence[bytes], timeout_s: float = 10.0) -> Appended:
        """Keeps the events of messages, on the disk and in the store; see `StoreReads`."""
        decoded = decode(messages, [self._clock()] * len(messages), self._settings)
        malformed = {one.position: one.reason for one in decoded.malformed}
        if len(decoded.batch):
            done: concurrent.futures.Future[None] = concurrent.futures.Future()
            with self._lock:
                if self._closed:
                    raise UnavailableError("the store is being closed")
                self._queue.put((decoded.batch, done))
            try:
                done.result(timeout_s)
            except TimeoutError as error:
                raise UnavailableError(f"no room on the disk's way in {timeout_s} s") from error
        return Appended(len(decoded.batch), malformed)

    def close(self) -> None:
        """Writes what waits and a snapshot, and ends."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._queue.put(None)
        self._writer.join()
        self._held.close()

    def _write(self, opened: concurrent.futures.Future[None]) -> None:
        log = None
        try:
            log = EventLog(self._folder / "log.sqlite")
            self.store, offset = open_store(self._folder / "snapshots", self._settings, log)
        except BaseException as error:
            if log is not None:
                log.close()
            opened.set_exception(error)
            return
        opened.set_result(None)
        saved = before = offset
        going_on = True
        while going_on:
            waiting: list[_Waiting] = []
            entry = self._queue.get()
            while entry is not None:
                waiting.append(entry)
                if len(waiting) >= _MOST_AT_ONCE or self._queue.empty():
                    break
                entry = self._queue.get()
            going_on = entry is not None
            if waiting:
                offset = self._keep(log, waiting, offset)
            if offset - saved >= self._every or (not going_on and offset > saved):
                try:
                    write_snapshot(self._folder / "snapshots", self.store, offset)
                    log.forget(before)
                    before, saved = saved, offset
                except Exception:  # The log has it all; the next may succeed.
                    _LOG.exception("%s: no snapshot could be written", self._folder)
        log.close()

    def _keep(self, log: EventLog, waiting: list[_Waiting], offset: int) -> int:
        batch = np.concatenate([batch for batch, _ in waiting])
        try:
            offset = log.append(batch)
            self.store.apply(batch)
        except Exception as error:
            for _, done in waiting:
                done.set_exception(UnavailableError(str(error)))
            return offset
        for _, done in waiting:
            done.set_result(None)
        return offset
