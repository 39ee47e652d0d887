"""The log and the snapshots: whole or not at all, and after any kill the very same state."""

import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest

from minirec.files import DamagedError
from pipelines.events.log import EventLog
from pipelines.events.settings import StoreSettings
from pipelines.events.snapshot import open_store, read_snapshot, write_snapshot
from pipelines.events.store import EventStore
from tests.pipelines.event_twin import random_batch

SMALL = StoreSettings(
    retention_ms=1000, max_events=300, max_relations=3, remembered_ids=128, expected_users=2
)


def check_same(store, other):
    ours, theirs = store.state(), other.state()
    assert list(ours) == list(theirs)
    for name, column in ours.items():
        assert column.dtype == theirs[name].dtype
        np.testing.assert_array_equal(column, theirs[name], name)
    assert store.counts() == other.counts()


def batches(number, size=40, seed=0):
    rng = np.random.default_rng(seed)
    return [random_batch(rng, size, 50 * step, kinds=1) for step in range(number)]


def test_a_log_gives_back_its_batches_from_any_offset(tmp_path):
    log = EventLog(tmp_path / "events.sqlite")
    assert (list(log.read(0)), log.next_offset) == ([], 0)
    first, second = batches(2)
    assert log.append(first) == 40
    assert log.append(first[:0]) == 40
    assert log.append(second[:7]) == 47
    other = EventLog(tmp_path / "events.sqlite")
    for offset in (0, 13, 40, 45, 47):
        read = list(other.read(offset))
        whole = np.concatenate([first, second[:7]])[offset:]
        np.testing.assert_array_equal(
            np.concatenate([first[:0], *(batch for _, batch in read)]), whole
        )
        assert [after for after, _ in read] == [end for end in (40, 47) if end > offset]
    with pytest.raises(ValueError, match="offset=48"):
        list(other.read(48))
    assert log.forget(46) == 1
    assert (log.first_offset, log.next_offset) == (40, 47)
    with pytest.raises(ValueError, match="offset=0"):
        list(log.read(0))
    assert log.forget(47) == 1
    log.close()
    again = EventLog(tmp_path / "events.sqlite")
    assert (again.first_offset, again.next_offset, list(again.read(47))) == (47, 47, [])


def test_a_damaged_log_is_named(tmp_path):
    path = tmp_path / "events.sqlite"
    log = EventLog(path)
    log.append(batches(1)[0])
    log.close()
    with sqlite3.connect(path) as rows:
        rows.execute("UPDATE batches SET events = zeroblob(length(events))")
    with pytest.raises(DamagedError, match="offset 0"):
        list(EventLog(path).read(0))
    other = tmp_path / "text"
    other.write_text("no database, but a text that is long enough\n" * 50)
    with pytest.raises(OSError, match="no event log"):
        EventLog(other)


def test_a_store_comes_back_from_its_snapshot_and_the_log_after_it(tmp_path):
    log, twin = EventLog(tmp_path / "log"), EventStore(SMALL)
    for step, batch in enumerate(batches(12)):
        offset = log.append(batch)
        twin.apply(batch)
        if step in (2, 5, 7):
            write_snapshot(tmp_path / "snapshots", twin, offset, {"step": step})
    assert len(os.listdir(tmp_path / "snapshots")) == 2
    store, offset = open_store(tmp_path / "snapshots", SMALL, log)
    assert offset == log.next_offset
    check_same(store, twin)
    found = read_snapshot(tmp_path / "snapshots", SMALL)
    assert found is not None
    assert found[1:] == (320, {"step": 7})


def test_another_setting_and_damage_are_named(tmp_path):
    store = EventStore(SMALL)
    place = write_snapshot(tmp_path, store, 3)
    other = StoreSettings(retention_ms=2000, max_events=300, max_relations=3, remembered_ids=128)
    with pytest.raises(ValueError, match=r"retention_ms=2000.*retention_ms=1000"):
        read_snapshot(tmp_path, other)
    with (place / "counts.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    with pytest.raises(DamagedError, match=r"counts\.npy"):
        read_snapshot(tmp_path, SMALL)
    assert read_snapshot(tmp_path / "nowhere", SMALL) is None


# A program that has imported what takes long makes one that feeds a store for every line: it takes
# up where the one before was killed.
_FEEDERS = """
import os, sys
from pathlib import Path
import numpy as np
from pipelines.events.batch import EVENT
from pipelines.events.log import EventLog
from pipelines.events.settings import StoreSettings
from pipelines.events.snapshot import open_store, write_snapshot
folder = Path(sys.argv[1])
settings = StoreSettings(
    retention_ms=1000, max_events=300, max_relations=3, remembered_ids=128, expected_users=2
)
events = np.fromfile(folder / "events", EVENT)
def feed():
    log = EventLog(folder / "log")
    store, offset = open_store(folder / "snapshots", settings, log)
    while offset < len(events):
        batch = events[offset : offset + 40]
        offset = log.append(batch)
        store.apply(batch)
        if offset % 80 == 0:
            write_snapshot(folder / "snapshots", store, offset)
for _ in sys.stdin:
    pid = os.fork()
    if not pid:
        feed()
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


def test_a_feeding_program_killed_20_times_comes_back_to_the_state_of_one_that_never_was(tmp_path):
    all_batches = batches(2000)
    np.concatenate(all_batches).tofile(tmp_path / "events")
    rng, twin, taken, reached = random.Random(0), EventStore(SMALL), 0, []
    with subprocess.Popen(
        [sys.executable, "-c", _FEEDERS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        text=True,
        bufsize=1,
    ) as feeders:
        assert feeders.stdin is not None
        assert feeders.stdout is not None
        for _ in range(20):
            feeders.stdin.write("\n")
            pid = int(feeders.stdout.readline())
            # The moment is what is tried here: in a start, an append, a snapshot.
            threading.Event().wait(rng.uniform(0.01, 0.25))
            os.kill(pid, signal.SIGKILL)
            assert int(feeders.stdout.readline()) == signal.SIGKILL
            log = EventLog(tmp_path / "log")
            store, offset = open_store(tmp_path / "snapshots", SMALL, log)
            log.close()
            for batch in all_batches[taken // 40 : offset // 40]:
                twin.apply(batch)
            taken = offset
            reached.append(offset)
            check_same(store, twin)
        feeders.stdin.close()
    assert len(set(reached)) > 3, reached
    shutil.rmtree(tmp_path / "snapshots")  # The log alone gives the same.
    log = EventLog(tmp_path / "log")
    check_same(open_store(tmp_path / "snapshots", SMALL, log)[0], twin)
