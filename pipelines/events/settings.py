"""What an event store keeps, for how long, and the actions and kinds that it knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from minirec.files.schema import require_whole

DAY_MS = 24 * 60 * 60 * 1000

FOLLOW, UNFOLLOW, BLOCK, UNBLOCK = 128, 129, 130, 131
LISTED, BACK_IN_STOCK, OUT_OF_STOCK, DELETED = 132, 133, 134, 135
HOUSE_ACTIONS: Mapping[str, int] = {
    "follow": FOLLOW,
    "unfollow": UNFOLLOW,
    "block": BLOCK,
    "unblock": UNBLOCK,
    "listed": LISTED,
    "back_in_stock": BACK_IN_STOCK,
    "out_of_stock": OUT_OF_STOCK,
    "deleted": DELETED,
}
"""Actions of every store with their codes: a user and a brand, then an item of the catalogue."""

_MOST_ACTIONS = FOLLOW
_MOST_KINDS = 256
_WHOLE = {
    "retention_ms": 1,
    "future_ms": 0,
    "max_events": 1,
    "max_per_user": 1,
    "max_per_list": 1,
    "max_relations": 1,
    "remembered_ids": 1,
    "expected_users": 1,
    "expected_brands": 1,
    "expected_items": 1,
}


@dataclasses.dataclass(frozen=True)
class StoreSettings:
    """What an event store keeps.

    Attributes:
        actions: what users do with items; the code of one is its place here.
        kinds: kinds of items whose lists of new items are kept apart; the code is the place.
        retention_ms: milliseconds that an event counts for.
        future_ms: milliseconds by which an event may be ahead of the clock that received it.
        max_events: events of users that are held; the oldest to arrive are overwritten.
        max_per_user: the newest events to arrive of one user that are read.
        max_per_list: new items kept of one brand or category and one kind.
        max_relations: brands that one user may follow or block, ever.
        remembered_ids: an event id is known again among at least so many that came after it, and
            at most twice as many.
        expected_users: room made for users at the start; more come at the price of a copy.
        expected_brands: the same for brands, and for categories.
        expected_items: the same for items of the catalogue.

    Raises:
        ValueError: a value that no store can have; it names the field.
    """

    actions: tuple[str, ...] = ("view", "addtocart", "transaction")
    kinds: tuple[str, ...] = ("item",)
    retention_ms: int = 2 * DAY_MS
    future_ms: int = 60_000
    max_events: int = 1 << 20
    max_per_user: int = 128
    max_per_list: int = 100
    max_relations: int = 200
    remembered_ids: int = 1 << 18
    expected_users: int = 1 << 12
    expected_brands: int = 1 << 8
    expected_items: int = 1 << 12

    def __post_init__(self):
        object.__setattr__(self, "actions", tuple(self.actions))
        object.__setattr__(self, "kinds", tuple(self.kinds))
        for field, most in (("actions", _MOST_ACTIONS), ("kinds", _MOST_KINDS)):
            names = getattr(self, field)
            if not 1 <= len(names) <= most or len(set(names)) < len(names):
                raise ValueError(f"{field}={names!r}: must be 1 to {most} names, each once")
            if not all(isinstance(name, str) and name for name in names):
                raise ValueError(f"{field}={names!r}: every name must be a text, not empty")
        if taken := sorted(set(self.actions) & set(HOUSE_ACTIONS)):
            raise ValueError(f"actions={self.actions!r}: {taken[0]!r} has a meaning of its own")
        for field, least in _WHOLE.items():
            require_whole(field, getattr(self, field), least)
        if self.max_events >= 1 << 32:
            raise ValueError(f"max_events={self.max_events}: must be below {1 << 32}")

    @property
    def action_codes(self) -> dict[str, int]:
        """The code of every action, by name."""
        return {name: code for code, name in enumerate(self.actions)} | dict(HOUSE_ACTIONS)

    def as_json(self) -> dict[str, Any]:
        """Returns the fields as JSON has them."""
        fields = dataclasses.asdict(self)
        return fields | {"actions": list(self.actions), "kinds": list(self.kinds)}
