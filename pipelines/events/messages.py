"""Events as JSON messages, and what is wrong with those that are none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minirec.files import parse_json
from pipelines.events.batch import EVENT, NONE, make_batch
from pipelines.events.settings import FOLLOW, HOUSE_ACTIONS, LISTED, StoreSettings

_MOST_BYTES = 1 << 16
_FIELDS = ("event_id", "user", "action", "item", "brand", "category", "kind", "time_ms")
_IDS = ("item", "brand", "category")
_LATEST = 1 << 53  # Milliseconds that a JSON number holds exactly; past the year 285,000.


class Malformed(NamedTuple):
    """A message that is no event.

    Attributes:
        position: its place among those that were decoded.
        message: its bytes.
        reason: what is wrong, with field and value.
    """

    position: int
    message: bytes
    reason: str


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What messages hold.

    Attributes:
        batch: `EVENT` records, in the order of the messages.
        malformed: the messages that are none.
    """

    batch: np.ndarray
    malformed: list[Malformed]


def key_of(id_: int | str) -> int:
    """Returns the number that stands for an id in the store.

    A whole number from 0 to 2^63 - 1 stands for itself, a text for 63 bits of its BLAKE2 digest:
    among ten million texts, two that get one number are found once in 180,000 such sets.
    """
    if isinstance(id_, int):
        return id_
    digest = hashlib.blake2b(id_.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def decode(messages: Sequence[bytes], received: Sequence[int], settings: StoreSettings) -> Decoded:
    """Returns the events of JSON messages.

        {"event_id": "a1", "user": "u7", "action": "view", "item": 12, "brand": 3,
         "category": 4, "kind": "item", "time_ms": 1760000000000}

    Ids are whole numbers from 0 on or texts; see `key_of`. An action of users needs `item`; follow,
    unfollow, block and unblock need `user` and `brand`; listed, back_in_stock, out_of_stock and
    deleted need `item` and no `user`. `brand` and `category` may be missing or null elsewhere, and
    so may `kind`, which is then the first one.

    Args:
        messages: UTF-8.
        received: when each was received, in milliseconds since 1970.
        settings: the names of actions and kinds.
    """
    actions = settings.action_codes
    kinds = {name: code for code, name in enumerate(settings.kinds)}
    rows, malformed = [], []
    for position, (message, at) in enumerate(zip(messages, received, strict=True)):
        try:
            rows.append(_row(message, at, actions, kinds))
        except ValueError as error:
            malformed.append(Malformed(position, message, str(error)))
    return Decoded(np.array(rows, EVENT) if rows else make_batch(0), malformed)


def encode(batch: np.ndarray, settings: StoreSettings) -> list[bytes]:
    """Returns the JSON message of every event; `decode` gives the same events, `received` apart."""
    names = {code: name for name, code in settings.action_codes.items()}
    messages = []
    for id_, user, item, brand, category, time, _, action, kind in batch.tolist():
        value: dict[str, Any] = {"event_id": id_, "action": names[action], "time_ms": time}
        if action < LISTED:
            value["user"] = user
        ids = zip(_IDS, (item, brand, category), strict=True)
        value |= {field: number for field, number in ids if number != NONE}
        value["kind"] = settings.kinds[kind]
        messages.append(json.dumps(value, separators=(",", ":")).encode())
    return messages


def _row(message: bytes, received: int, actions: dict[str, int], kinds: dict[str, int]) -> tuple:
    if len(message) > _MOST_BYTES:
        raise ValueError(f"it has {len(message)} bytes; there may be {_MOST_BYTES}")
    value = parse_json(message, "not JSON")
    if not isinstance(value, dict):
        raise ValueError(f"it holds {_short(value)}; expected an object")
    if unknown := [name for name in value if name not in _FIELDS]:
        raise ValueError(f"unknown field {_short(unknown[0])}; known are {list(_FIELDS)}")
    name = value.get("action")
    if not isinstance(name, str) or name not in actions:
        raise ValueError(f"action is {_short(name)}; known are {list(actions)}")
    action = actions[name]
    kind = value.get("kind")
    if kind is not None and (not isinstance(kind, str) or kind not in kinds):
        raise ValueError(f"kind is {_short(kind)}; known are {list(kinds)}")
    time = value.get("time_ms")
    if type(time) is not int or not 0 <= time < _LATEST:
        raise ValueError(f"time_ms is {_short(time)}; expected milliseconds since 1970")
    if action >= LISTED and value.get("user") is not None:
        raise ValueError(f"user is {_short(value['user'])}; {name} has none")
    needs_item = action < FOLLOW or action >= LISTED
    return (
        _key(value, "event_id"),
        0 if action >= LISTED else _key(value, "user"),
        _key(value, "item", missing=not needs_item),
        _key(value, "brand", missing=action not in _OF_BRANDS),
        _key(value, "category", missing=True),
        time,
        received,
        action,
        0 if kind is None else kinds[kind],
    )


_OF_BRANDS = frozenset(code for code in HOUSE_ACTIONS.values() if FOLLOW <= code < LISTED)


def _key(value: dict[str, Any], field: str, *, missing: bool = False) -> int:
    id_ = value.get(field)
    if id_ is None and missing:
        return NONE
    if type(id_) is int and 0 <= id_ < 1 << 63:
        return id_
    if type(id_) is str and id_:
        return key_of(id_)
    raise ValueError(f"{field} is {_short(id_)}; expected a whole number from 0 on, or a text")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
