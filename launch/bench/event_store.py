"""The event store beside SQLite by the same calls: events in, reads while it is fed, bytes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipelines.events.batch import make_batch
from pipelines.events.settings import (
    BLOCK,
    DAY_MS,
    FOLLOW,
    LISTED,
    OUT_OF_STOCK,
    UNFOLLOW,
    StoreSettings,
)
from pipelines.events.store import EventStore

_USERS, _EVENTS = 1_000_000, 5_000_000
_PEER_SHARE = 10  # SQLite gets every tenth user's worth of events; it takes that much longer.
_BRANDS, _CATEGORIES, _ITEMS = 5_000, 500, 200_000
_BATCH, _FED_BATCH = 1 << 14, 512
_FED_PER_S, _READS_PER_S, _FED_SECONDS = 100_000, 500, 10.0
_LEAST_READS = 20
_MOST = 50
_START = 1_760_000_000_000
_SHARES = {0: 0.85, 1: 0.07, 2: 0.03, FOLLOW: 0.015, UNFOLLOW: 0.003, BLOCK: 0.002}
_SHARES |= {LISTED: 0.025, OUT_OF_STOCK: 0.005}


def made_events(num_events: int, num_users: int, seed: int = 0) -> np.ndarray:
    """Returns random events within a day: users alike, items and brands by Zipf's law."""
    rng = np.random.default_rng(seed)

    def draw(num: int) -> np.ndarray:
        return (num * rng.random(num_events) ** 3).astype(np.int64)

    batch = make_batch(num_events)
    batch["id"] = rng.permutation(num_events)
    batch["user"] = rng.integers(0, num_users, num_events) * 7919
    batch["item"] = draw(_ITEMS)
    batch["brand"] = batch["item"] % _BRANDS
    batch["category"] = batch["brand"] % _CATEGORIES
    batch["received"] = _START + np.arange(num_events) * (DAY_MS // 2) // num_events
    batch["time"] = batch["received"] - rng.integers(0, 2_000, num_events)
    batch["action"] = rng.choice(list(_SHARES), num_events, p=list(_SHARES.values()))
    return batch


def run(num_users: int = _USERS, num_events: int = _EVENTS) -> Iterator[dict[str, Any]]:
    """Yields a row of ours and one of SQLite in memory, with an index for every read.

    `*_fed` is the share of what was to be fed that was, when the last read had its answer.

    `events_per_s` are decoded events written at full speed by one thread. Then it is fed at
    `fed_per_s` in small batches while reads arrive at random times: `*_us` are microseconds of a
    read itself, `*_waited_us` those from its arrival on, with what it waited for a batch and for
    reads before it. All by one thread, as an event loop has it.

    Args:
        num_users: users.
        num_events: events of ours; SQLite gets a tenth, of a tenth of the users.
    """
    ours = _Ours(num_events, num_users)
    yield _measured("minirec", ours, made_events(num_events, num_users))
    few = num_users // _PEER_SHARE, num_events // _PEER_SHARE
    yield _measured("sqlite", _Sqlite(), made_events(few[1], few[0]))


def _measured(name: str, store: _Ours | _Sqlite, events: np.ndarray) -> dict[str, Any]:
    fed = int(min(_FED_PER_S * _FED_SECONDS, len(events) // 5))
    written, rest = events[:-fed], events[-fed:]
    begin, used = time.perf_counter(), time.process_time()
    for start in range(0, len(written), _BATCH):
        store.apply(written[start : start + _BATCH])
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    row = {
        "benchmark": "event_store",
        "implementation": name,
        "num_events": len(events),
        "events_per_s": round(len(written) / seconds),
        "events_per_cpu_s": round(len(written) / used),
        "fed_per_s": _FED_PER_S,
    }
    users = np.unique(events["user"][:100_000])
    for read in (store.history, store.in_network):
        row |= _read_while_fed(read, store.apply, np.array_split(rest, 2)[0], users)
        rest = np.array_split(rest, 2)[1]
    return row | {"bytes_per_event": round(store.num_bytes / len(events), 1)}


def _read_while_fed(
    read: Callable[[int, int], Any],
    apply: Callable[[np.ndarray], Any],
    events: np.ndarray,
    users: np.ndarray,
) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    reads = max(_LEAST_READS, int(len(events) / _FED_PER_S * _READS_PER_S))
    arrivals = np.cumsum(rng.exponential(1 / _READS_PER_S, reads))
    asked = rng.choice(users, len(arrivals)).tolist()
    itself, waited, start = [], [], 0
    begin = time.perf_counter()
    for due, user in zip(arrivals.tolist(), asked, strict=True):
        while (now := time.perf_counter() - begin) < due:
            if start < len(events) and start / _FED_PER_S <= now:
                apply(events[start : start + _FED_BATCH])
                start += _FED_BATCH
        read(user, _MOST)
        end = time.perf_counter() - begin
        itself.append(end - now)
        waited.append(end - due)
    name = getattr(read, "__name__", "read")
    row: dict[str, Any] = {}
    for kind, times in (("", itself), ("_waited", waited)):
        for percent in (50, 99):
            key = f"{name}{kind}_p{percent}_us"
            row[key] = round(1e6 * float(np.percentile(times, percent)), 1)
    return row | {f"{name}_fed": round(min(start / len(events), 1.0), 3)}


class _Ours(EventStore):
    def __init__(self, num_events: int, num_users: int):
        super().__init__(
            StoreSettings(
                max_events=num_events,
                expected_users=num_users,
                expected_brands=_BRANDS,
                expected_items=_ITEMS,
                max_per_list=50,
            )
        )


class _Sqlite:
    """The same calls on tables in memory."""

    def __init__(self):
        self._rows = sqlite3.connect(":memory:", isolation_level=None)
        self._rows.executescript(
            """
            CREATE TABLE ids (id INTEGER PRIMARY KEY);
            CREATE TABLE events (user INTEGER, time INTEGER, item INTEGER, brand INTEGER,
                category INTEGER, action INTEGER);
            CREATE INDEX of_user ON events (user, time);
            CREATE TABLE follows (user INTEGER, brand INTEGER, what INTEGER, ended INTEGER,
                time INTEGER, PRIMARY KEY (user, brand, what)) WITHOUT ROWID;
            CREATE TABLE listed (item INTEGER, brand INTEGER, category INTEGER, time INTEGER);
            CREATE INDEX of_brand ON listed (brand, time);
            CREATE INDEX of_category ON listed (category, time);
            CREATE TABLE items (item INTEGER PRIMARY KEY, word INTEGER, time INTEGER);
            """
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of all pages."""
        pages, size = (
            self._rows.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "page_size")
        )
        return pages * size

    def apply(self, batch: np.ndarray) -> None:
        """Writes a batch in one transaction."""
        self._rows.execute("BEGIN")
        new = [
            event
            for event in batch.tolist()
            if self._rows.execute("INSERT OR IGNORE INTO ids VALUES (?)", event[:1]).rowcount
        ]
        self._rows.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
            [(u, t, i, b, c, a) for _, u, i, b, c, t, _, a, _ in new if a < FOLLOW],
        )
        self._rows.executemany(
            "INSERT OR REPLACE INTO follows VALUES (?, ?, ?, ?, ?)",
            [
                (u, b, a >= BLOCK, a == UNFOLLOW, t)
                for _, u, _, b, _, t, _, a, _ in new
                if FOLLOW <= a < LISTED
            ],
        )
        of_catalogue = [event for event in new if event[7] >= LISTED]
        self._rows.executemany(
            "INSERT INTO listed VALUES (?, ?, ?, ?)",
            [(e[2], e[3], e[4], e[5]) for e in of_catalogue if e[7] == LISTED],
        )
        self._rows.executemany(
            "INSERT OR REPLACE INTO items VALUES (?, ?, ?)",
            [(e[2], e[7], e[5]) for e in of_catalogue],
        )
        self._rows.execute("COMMIT")

    def history(self, user: int, most: int) -> list[tuple]:
        """Returns a user's newest events."""
        return self._rows.execute(
            "SELECT item, brand, category, action, time FROM events WHERE user = ? "
            "ORDER BY time DESC LIMIT ?",
            (user, most),
        ).fetchall()

    def in_network(self, user: int, most: int) -> list[tuple]:
        """Returns the newest items of what a user follows or returns to."""
        return self._rows.execute(
            """
            WITH mine AS (SELECT brand, category FROM events WHERE user = $user
                    ORDER BY time DESC LIMIT 128),
                brands AS (SELECT brand FROM follows WHERE user = $user AND what = 0 AND ended = 0
                    UNION SELECT brand FROM mine GROUP BY brand HAVING count(*) > 1),
                categories AS (SELECT category FROM mine GROUP BY category HAVING count(*) > 1),
                found AS (SELECT item, brand, time FROM listed WHERE brand IN brands
                    UNION ALL SELECT item, brand, time FROM listed WHERE category IN categories)
            SELECT item, max(time) AS newest FROM found
            WHERE brand NOT IN (SELECT brand FROM follows WHERE user = $user AND what = 1)
                AND (SELECT word FROM items WHERE items.item = found.item) = $listed
            GROUP BY item ORDER BY newest DESC, item LIMIT $most
            """,
            {"user": user, "most": most, "listed": LISTED},
        ).fetchall()
