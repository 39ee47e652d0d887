"""A store on the disk, whole or not at all, with the offset of the log that it holds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minirec.files import (
    DamagedError,
    atomic_folder,
    check_folder,
    clear_leftovers,
    read_npy,
    read_sealed,
    write_checksums,
    write_sealed,
)
from minirec.files.schema import COUNT
from pipelines.events.log import EventLog
from pipelines.events.settings import StoreSettings
from pipelines.events.store import EventStore

_NAME = re.compile(r"snapshot-(\d{20})")
_ABOUT = "snapshot.json"
_KEPT = 2
_REMEDY = "remove this snapshot: an older one and the log give the same state"
_SHAPE = {"offset": COUNT, "settings": dict, "columns": {str: str}, "source": dict}


def write_snapshot(
    folder: Path, store: EventStore, offset: int, source: dict[str, Any] | None = None
) -> Path:
    """Writes a store's state, and keeps the newest two snapshots of a folder.

    Only the thread that applies events may call it; others may read the store meanwhile.

    Args:
        folder: where snapshots lie.
        store: the store.
        offset: how many events of its log it has taken; the order of snapshots goes by it.
        source: what else is kept with it, such as the offsets of Kafka's partitions.

    Returns:
        The snapshot's folder.

    Raises:
        OSError: the disk is full or refuses to be written; older snapshots stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"snapshot-{offset:020d}"
    state = store.state()
    with atomic_folder(place) as new:
        for name, column in state.items():
            np.save(new / f"{name}.npy", column, allow_pickle=False)
        about = {
            "offset": offset,
            "settings": store.settings.as_json(),
            "columns": {name: column.dtype.name for name, column in state.items()},
            "source": source or {},
        }
        write_sealed(new / _ABOUT, about)
        write_checksums(new)
    for _, old in list(_snapshots(folder))[_KEPT:]:
        shutil.rmtree(old)
    return place


def read_snapshot(
    folder: Path, settings: StoreSettings
) -> tuple[EventStore, int, dict[str, Any]] | None:
    """Returns the newest snapshot's store, its offset and its `source`; None where there is none.

    Raises:
        ValueError: it was written with other settings; the message names the field and both values.
        DamagedError: it is not as it was written.
    """
    if not folder.is_dir():
        return None
    clear_leftovers(folder)
    newest = next(_snapshots(folder), None)
    if newest is None:
        return None
    place = newest[1]
    check_folder(place, remedy=_REMEDY)
    about = read_sealed(place / _ABOUT, _REMEDY, _SHAPE)
    for field, value in settings.as_json().items():
        if (then := about["settings"].get(field)) != value:
            raise ValueError(
                f"{field}={value!r}: {place} was written with {field}={then!r}; give that, or "
                "another folder and read the log from its start"
            )
    store = EventStore(settings)
    names = about["columns"].items()
    try:
        store.restore({name: read_npy(place / f"{name}.npy", dtype) for name, dtype in names})
    except (KeyError, ValueError) as error:
        raise DamagedError(f"{place}: holds another store's columns: {error}; {_REMEDY}") from error
    return store, about["offset"], about["source"]


def open_store(folder: Path, settings: StoreSettings, log: EventLog) -> tuple[EventStore, int]:
    """Returns the store of a log, and the offset up to which it has taken it.

    That is the newest snapshot, and what the log holds after it. A store that was killed comes
    back so to the very state that it had after the last batch that its log kept.

    Args:
        folder: where snapshots lie.
        settings: what the store keeps.
        log: the log that feeds it.

    Raises:
        ValueError: the snapshot was written with other settings, or the log does not reach back to
            it.
        DamagedError: the snapshot or the log is not as it was written.
    """
    found = read_snapshot(folder, settings)
    store, offset = (EventStore(settings), 0) if found is None else found[:2]
    for after, batch in log.read(offset):
        store.apply(batch)
        offset = after
    return store, offset


def _snapshots(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yields offsets and folders of snapshots, the newest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    yield from sorted(((int(name[1]), path) for name, path in found if name), reverse=True)
