"""The event store: who did what lately, in memory, as xai-org/x-algorithm's thunder keeps it.

All state lies in NumPy columns. One thread applies events; any number may read meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from pipelines.events import settings as codes
from pipelines.events.answers import Activity, History, NewItems, newest, repeated
from pipelines.events.batch import NONE, require_batch, require_known
from pipelines.events.histories import Histories
from pipelines.events.keys import Keys
from pipelines.events.new_items import AVAILABLE, GONE, OUT, ItemStates, Lists
from pipelines.events.relations import BLOCKS, FOLLOWS, Relations
from pipelines.events.remembered import Remembered
from pipelines.events.settings import StoreSettings

_COUNTS = (
    "received",
    "applied",
    "duplicates",
    "future",
    "old",
    "refused",
    "overwritten_early",
)
_SLICE = 1024  # Events that are applied while readers wait: some milliseconds.


class EventStore:
    """Histories, new items and relations of the last days.

    Events are taken in the order of their arrival. One that happened more than `future_ms` after
    it was received, or more than `retention_ms` before, is dropped and counted; so is one whose id
    came before. The store's clock is the latest `received` of all events, so that the same events
    always lead to the same state.

    An item's history stays as it was when the item is deleted or out of stock: what happened has
    happened. Lists of new items leave it out, and `available` tells.

    Args:
        settings: what it keeps.
    """

    def __init__(self, settings: StoreSettings):
        self.settings = settings
        self._lock = threading.Lock()
        self._clock = np.zeros(1, np.int64)
        self._counts = np.zeros(len(_COUNTS), np.int64)
        self._by_action = np.zeros(256, np.int64)
        self._users = Keys(settings.expected_users)
        self._brands = Keys(settings.expected_brands)
        self._categories = Keys(settings.expected_brands)
        self._remembered = Remembered(settings.remembered_ids)
        self._histories = Histories(
            settings.max_events, settings.max_per_user, settings.expected_users
        )
        self._relations = Relations(settings.max_relations, settings.expected_users)
        lists = (len(settings.kinds), settings.max_per_list, settings.expected_brands)
        self._of_brand, self._of_category = Lists(*lists), Lists(*lists)
        self._items = ItemStates(settings.expected_items)
        self._slice = min(_SLICE, settings.max_events)

    @property
    def now(self) -> int:
        """The clock: milliseconds since 1970 at which the latest event was received; 0: none."""
        return int(self._clock[0])

    @property
    def num_bytes(self) -> int:
        """Bytes that all columns take."""
        return sum(part.num_bytes for part in self._parts().values()) + sum(
            column.nbytes for column in (self._clock, self._counts, self._by_action)
        )

    def apply(self, batch: np.ndarray) -> int:
        """Takes a batch of `EVENT` records, a slice at a time, so that readers get in between.

        Returns:
            How many were applied: neither dropped nor duplicates.

        Raises:
            ValueError: not such a batch, or an action or kind that the settings do not name;
                nothing was applied then.
        """
        require_batch(batch)
        require_known(batch, self.settings)
        applied = 0
        for start in range(0, len(batch), self._slice):
            with self._lock:
                applied += self._apply(batch[start : start + self._slice])
        return applied

    def history(self, user: int, most: int, *, now: int | None = None) -> History:
        """Returns a user's newest events with items.

        Args:
            user: the id.
            most: how many at most; the settings' `max_per_user` bounds it, too.
            now: milliseconds since 1970 that retention counts from; None: the store's clock.
        """
        with self._lock:
            row = self._users.find_one(user)
            found = self._histories.read(row, self._from(now), most)
            return History(
                found["item"],
                _ids(self._brands, found["brand"]),
                _ids(self._categories, found["category"]),
                found["action"],
                found["time"],
            )

    def followed_brands(self, user: int) -> Int[np.ndarray, " n"]:
        """Returns ids of the brands that a user follows, also blocked ones, the latest first."""
        return self._related(user, FOLLOWS)

    def blocked_brands(self, user: int) -> Int[np.ndarray, " n"]:
        """Returns ids of the brands that a user blocks, the latest first."""
        return self._related(user, BLOCKS)

    def available(self, items: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Returns which items are neither deleted nor out of stock, by the latest word on each."""
        with self._lock:
            return self._items.available(items)

    def in_network(
        self, user: int, most: int, *, kind: str | None = None, now: int | None = None
    ) -> NewItems:
        """Returns items new or back in stock of what a user follows or returns to, newest first.

        That is: of brands that they follow, and of brands and categories with two or more events
        in their history; never of a brand that they block, nor what is deleted or out of stock.
        Each item comes once; of one time, the lower id comes first.

        Args:
            user: the id.
            most: how many at most.
            kind: only items of this kind; None: of all.
            now: milliseconds since 1970 that retention counts from; None: the store's clock.

        Raises:
            ValueError: a kind that the settings do not name.
        """
        if kind is not None and kind not in self.settings.kinds:
            raise ValueError(f"kind={kind!r}: known are {list(self.settings.kinds)}")
        code = None if kind is None else self.settings.kinds.index(kind)
        with self._lock:
            row = self._users.find_one(user)
            if row < 0:
                return NewItems(np.zeros(0, np.int64), np.zeros(0, np.int64))
            return self._in_network(row, most, code, self._from(now))

    def new_items(self, most: int, *, now: int | None = None) -> NewItems:
        """Returns items new or back in stock of whatever brand, newest first.

        Args:
            most: how many at most.
            now: milliseconds since 1970 that retention counts from; None: the store's clock.
        """
        with self._lock:
            item, time = self._items.since(self._from(now))
        return newest(item, time, most)

    def activity(self, half_life_ms: float, *, now: int | None = None) -> Activity:
        """Returns what all users did within retention: it goes over all events that are held.

        Args:
            half_life_ms: milliseconds after which an event counts half, above 0.
            now: milliseconds since 1970 that ages count from; None: the store's clock.

        Raises:
            ValueError: the half-life is not above 0.
        """
        if not half_life_ms > 0:
            raise ValueError(f"half_life_ms={half_life_ms}: must be above 0")
        now = self.now if now is None else now
        with self._lock:
            events = self._histories.all(self._from(now))
        item, place = np.unique(events["item"], return_inverse=True)
        age = np.maximum(now - events["time"], 0)
        weight = 0.5 ** (age / half_life_ms)
        score = np.bincount(place, weight, minlength=len(item))
        num_actions = len(self.settings.actions)
        flat = place * num_actions + events["action"]
        count = np.bincount(flat, minlength=len(item) * num_actions)
        return Activity(item, score, count.reshape(len(item), num_actions))

    def counts(self) -> dict[str, Any]:
        """Returns exact counts since the start.

        `received` is the sum of `applied`, `duplicates`, `future`, `old` and `refused` (the user
        follows too many brands already); `by_action` counts the applied ones by name;
        `overwritten_early` those that left the full ring before their retention was over; `held`
        events are in the ring, of `users` that were ever seen.
        """
        with self._lock:
            counts: dict[str, Any] = dict(zip(_COUNTS, self._counts.tolist(), strict=True))
            names = self.settings.action_codes.items()
            by_action = {name: int(self._by_action[code]) for name, code in names}
            held = {"held": self._histories.held, "users": len(self._users)}
            return counts | held | {"by_action": by_action}

    def state(self) -> dict[str, np.ndarray]:
        """Returns all columns by name, without copies; only the thread that applies may ask."""
        own = {"clock": self._clock, "counts": self._counts, "by_action": self._by_action}
        for name, part in self._parts().items():
            if isinstance(part, Keys):
                own[name] = part.ids
            else:
                own |= {f"{name}.{field}": column for field, column in part.state().items()}
        return own

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Holds what `state` returned of a store with the same settings, and nothing else."""
        with self._lock:
            for name in ("clock", "counts", "by_action"):
                getattr(self, f"_{name}")[:] = state[name]
            for name, part in self._parts().items():
                if isinstance(part, Keys):
                    part.restore(state[name])
                    continue
                start = f"{name}."
                mine = {n[len(start) :]: c for n, c in state.items() if n.startswith(start)}
                part.restore(mine)

    def _parts(self) -> dict[str, Any]:
        return {
            "users": self._users,
            "brands": self._brands,
            "categories": self._categories,
            "remembered": self._remembered,
            "histories": self._histories,
            "relations": self._relations,
            "of_brand": self._of_brand,
            "of_category": self._of_category,
            "items": self._items,
        }

    def _from(self, now: int | None) -> int:
        return (self.now if now is None else now) - self.settings.retention_ms

    def _count(self, name: str, number: int) -> None:
        self._counts[_COUNTS.index(name)] += number

    def _apply(self, batch: np.ndarray) -> int:
        self._count("received", len(batch))
        self._clock[0] = max(self._clock[0], batch["received"].max())
        ahead = batch["time"] - batch["received"]
        future, old = ahead > self.settings.future_ms, -ahead > self.settings.retention_ms
        self._count("future", int(np.count_nonzero(future)))
        self._count("old", int(np.count_nonzero(old)))
        if (dropped := future | old).any():
            batch = batch[~dropped]
        fresh = self._remembered.add(batch["id"])
        self._count("duplicates", int(np.count_nonzero(~fresh)))
        if not fresh.all():
            batch = batch[fresh]
        if not len(batch):
            return 0
        action = batch["action"]
        of_catalogue = action >= codes.LISTED
        brand = _rows(self._brands, batch["brand"])
        category = _rows(self._categories, batch["category"])
        user = np.full(len(batch), NONE)
        user[~of_catalogue] = self._users.add(batch["user"][~of_catalogue])
        of_item = action < codes.FOLLOW
        names = ("item", "time", "action")
        columns = {name: batch[name][of_item] for name in names}
        columns |= {"brand": brand[of_item], "category": category[of_item]}
        early = self._histories.append(user[of_item], columns, self._from(None))
        self._count("overwritten_early", early)
        refused = self._relate(batch, user, brand, ~of_item & ~of_catalogue)
        self._list(batch[of_catalogue], brand[of_catalogue], category[of_catalogue])
        applied = len(batch) - len(refused)
        self._count("refused", len(refused))
        self._count("applied", applied)
        self._by_action += np.bincount(action, minlength=256)
        self._by_action -= np.bincount(refused, minlength=256)
        return applied

    def _relate(
        self, batch: np.ndarray, user: np.ndarray, brand: np.ndarray, concerned: np.ndarray
    ) -> np.ndarray:
        """Applies follows and blocks; returns the actions of those that were refused."""
        action = batch["action"][concerned]
        blocks = (action == codes.BLOCK) | (action == codes.UNBLOCK)
        kept = self._relations.apply(
            user[concerned],
            brand[concerned],
            np.where(blocks, BLOCKS, FOLLOWS),
            (action == codes.FOLLOW) | (action == codes.BLOCK),
            batch["time"][concerned],
        )
        return action[~kept]

    def _list(self, batch: np.ndarray, brand: np.ndarray, category: np.ndarray) -> None:
        """Applies the catalogue's events: words on items, and entries of lists."""
        if not len(batch):
            return
        action, time = batch["action"], batch["time"]
        word = np.full(len(batch), AVAILABLE)
        word[action == codes.OUT_OF_STOCK], word[action == codes.DELETED] = OUT, GONE
        item = self._items.apply(batch["item"], word, time)
        for lists, owners in ((self._of_brand, brand), (self._of_category, category)):
            new = (word == AVAILABLE) & (owners >= 0)
            columns = {"item": item[new], "time": time[new], "brand": brand[new]}
            lists.append(owners[new], batch["kind"][new].astype(np.int64), columns)

    def _related(self, user: int, what: int) -> np.ndarray:
        with self._lock:
            rows, time = self._relations.read(self._users.find_one(user), what)
            brands = self._brands.ids[rows]
            return brands[np.lexsort((brands, -time))]

    def _in_network(self, row: int, most: int, kind: int | None, after: int) -> NewItems:
        seen = self._histories.read(row, after)
        blocked, _ = self._relations.read(row, BLOCKS)
        followed, _ = self._relations.read(row, FOLLOWS)
        brands = np.concatenate([followed, repeated(seen["brand"])])
        categories = repeated(seen["category"])
        lists = [
            of.read(owners, kind)
            for of, owners in ((self._of_brand, brands), (self._of_category, categories))
            if len(owners)
        ]
        if not lists:
            return NewItems(np.zeros(0, np.int64), np.zeros(0, np.int64))
        item, time, brand = (
            np.concatenate([one[name] for one in lists]) for name in ("item", "time", "brand")
        )
        kept = (time >= after) & self._items.can_be_had(item)
        if len(blocked):
            kept &= ~np.isin(brand, blocked)
        return newest(self._items.ids(item[kept]), time[kept], most)


def _rows(keys: Keys, ids: np.ndarray) -> np.ndarray:
    """Returns rows of ids, of new ones too; -1 for those below 0."""
    rows = np.full(len(ids), NONE)
    named = ids >= 0
    rows[named] = keys.add(ids[named])
    return rows


def _ids(keys: Keys, rows: np.ndarray) -> np.ndarray:
    """Returns ids of rows; -1 for those below 0."""
    if not len(keys):
        return np.full(len(rows), NONE)
    return np.where(rows >= 0, keys.ids[rows], NONE)
