"""An event store in plain Python, obviously right, that the real one is compared with."""

import math

import numpy as np

from pipelines.events.batch import make_batch
from pipelines.events.settings import (
    BACK_IN_STOCK,
    BLOCK,
    DELETED,
    FOLLOW,
    LISTED,
    OUT_OF_STOCK,
    UNBLOCK,
    UNFOLLOW,
)


class Twin:
    def __init__(self, settings):
        self.settings = settings
        self.now = 0
        self.current, self.older = set(), set()
        self.events = []  # (number, user, item, brand, category, action, time)
        self.counts = dict.fromkeys(("applied", "duplicates", "future", "old", "refused"), 0)
        self.pairs = {}  # (user, brand) -> [(time, on) of follows, of blocks]
        self.lists = {}  # ("brand" | "category", id, kind) -> [(item, time, brand)]
        self.items = {}  # item -> (time, can be had)
        self.early = 0

    def apply(self, batch):
        for row in batch:
            self._apply({name: int(row[name]) for name in batch.dtype.names})

    def _apply(self, event):
        settings, time, action = self.settings, event["time"], event["action"]
        self.now = max(self.now, event["received"])
        if time - event["received"] > settings.future_ms:
            self.counts["future"] += 1
            return
        if event["received"] - time > settings.retention_ms:
            self.counts["old"] += 1
            return
        if event["id"] in self.current or event["id"] in self.older:
            self.counts["duplicates"] += 1
            return
        if len(self.current) == settings.remembered_ids:
            self.older, self.current = self.current, set()
        self.current.add(event["id"])
        user, item, brand = event["user"], event["item"], event["brand"]
        if action < FOLLOW:
            number = len(self.events)
            names = ("user", "item", "brand", "category", "action", "time")
            self.events.append((number, *(event[name] for name in names)))
        elif action < LISTED:
            mine = [pair for pair in self.pairs if pair[0] == user]
            if (user, brand) not in self.pairs and len(mine) >= settings.max_relations:
                self.counts["refused"] += 1
                return
            pair = self.pairs.setdefault((user, brand), [(-math.inf, False)] * 2)
            what = int(action in (BLOCK, UNBLOCK))
            assert action in (FOLLOW, UNFOLLOW, BLOCK, UNBLOCK)
            if time >= pair[what][0]:
                pair[what] = (time, action in (FOLLOW, BLOCK))
        else:
            new = action in (LISTED, BACK_IN_STOCK)
            assert new or action in (OUT_OF_STOCK, DELETED)
            if time >= self.items.get(item, (-math.inf, True))[0]:
                self.items[item] = (time, new)
            for name in ("brand", "category") if new else ():
                if event[name] >= 0:
                    key = (name, event[name], event["kind"])
                    self.lists.setdefault(key, []).append((item, time, brand))
        self.counts["applied"] += 1

    def history(self, user, most=None, now=None):
        held = self.events[-self.settings.max_events :]
        mine = [event for event in held if event[1] == user][-self.settings.max_per_user :]
        after = (self.now if now is None else now) - self.settings.retention_ms
        mine = [event for event in mine if event[6] >= after]
        mine.sort(key=lambda event: (event[6], event[0]), reverse=True)
        return [event[2:] for event in mine[:most]]

    def related(self, user, what):
        found = [
            (-pair[what][0], brand)
            for (owner, brand), pair in self.pairs.items()
            if owner == user and pair[what][1]
        ]
        return found

    def available(self, item):
        return self.items.get(item, (0, True))[1]

    def new_items(self, most=None, now=None):
        after = (self.now if now is None else now) - self.settings.retention_ms
        found = [(item, time) for item, (time, on) in self.items.items() if on and time >= after]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:most]

    def activity(self, half_life, now=None):
        """By item: its halved events, and how many there are of each action."""
        now = self.now if now is None else now
        found = {}
        for _, _, item, _, _, action, time in self.events[-self.settings.max_events :]:
            if time >= now - self.settings.retention_ms:
                score, counts = found.setdefault(item, (0.0, [0] * len(self.settings.actions)))
                counts[action] += 1
                found[item] = score + 0.5 ** (max(now - time, 0) / half_life), counts
        return found

    def in_network(self, user, most=None, kind=None, now=None):
        history = self.history(user, now=now)
        brands, categories = ([event[place] for event in history] for place in (1, 2))
        blocked = {brand for _, brand in self.related(user, 1)}
        owners = {("brand", brand) for _, brand in self.related(user, 0)}
        owners |= {("brand", one) for one in brands if one >= 0 and brands.count(one) > 1}
        owners |= {("category", c) for c in categories if c >= 0 and categories.count(c) > 1}
        after = (self.now if now is None else now) - self.settings.retention_ms
        newest = {}
        for (name, owner, of_kind), entries in self.lists.items():
            if (name, owner) not in owners or kind not in (None, of_kind):
                continue
            for item, time, brand in entries[-self.settings.max_per_list :]:
                if time >= after and brand not in blocked and self.available(item):
                    newest[item] = max(time, newest.get(item, time))
        return sorted(newest.items(), key=lambda pair: (-pair[1], pair[0]))[:most]


def random_batch(rng, size, clock=0, kinds=2):
    """Events of few users, brands and items, so that all of them meet; some late, some twice."""
    batch = make_batch(size)
    batch["id"] = rng.integers(0, 400, size)
    batch["user"] = rng.integers(0, 5, size) * 1_000_003
    batch["item"] = rng.integers(0, 12, size)
    batch["brand"] = rng.integers(-1, 5, size)
    batch["category"] = rng.integers(-1, 4, size)
    batch["received"] = clock + np.sort(rng.integers(0, 500, size))
    batch["time"] = batch["received"] - rng.integers(-80, 1300, size) // rng.choice([1, 20, 500])
    batch["kind"] = rng.integers(0, kinds, size)
    actions = [0, 0, 0, 1, 2, *range(FOLLOW, LISTED + 4), LISTED, LISTED]
    batch["action"] = rng.choice(actions, size)
    of_brand = (batch["action"] >= FOLLOW) & (batch["action"] < LISTED)
    batch["brand"][of_brand] = np.maximum(batch["brand"][of_brand], 0)
    return batch
