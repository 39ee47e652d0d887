"""JSON messages and events: what is right comes back the same, what is wrong says why."""

import json

import numpy as np
import pytest

from pipelines.events.batch import EVENT
from pipelines.events.messages import decode, encode, key_of
from pipelines.events.settings import FOLLOW, LISTED, StoreSettings
from pipelines.events.store import EventStore

SETTINGS = StoreSettings(kinds=("item", "video"))
VIEW = {"event_id": "e", "user": "u", "action": "view", "item": 3, "time_ms": 5}


def test_events_are_the_same_after_a_way_through_messages():
    rng = np.random.default_rng(0)
    batch = np.zeros(500, EVENT)
    for name in ("id", "user", "item", "brand", "category", "time"):
        batch[name] = rng.integers(0, 1 << 50, 500)
    batch["category"][::3] = -1
    batch["kind"] = rng.integers(0, 2, 500)
    batch["action"] = rng.choice([0, 1, 2, *range(FOLLOW, LISTED + 4)], 500)
    batch["item"][(batch["action"] >= FOLLOW) & (batch["action"] < LISTED)] = -1
    batch["user"][batch["action"] >= LISTED] = 0
    batch["received"] = np.arange(500)
    decoded = decode(encode(batch, SETTINGS), range(500), SETTINGS)
    assert not decoded.malformed
    np.testing.assert_array_equal(decoded.batch, batch)


def test_texts_are_known_by_a_number_that_stays_and_fields_may_be_missing():
    decoded = decode([json.dumps(VIEW).encode()], [9], SETTINGS)
    row = decoded.batch[0]
    assert (row["id"], row["user"], row["item"]) == (key_of("e"), key_of("u"), 3)
    assert (row["brand"], row["category"], row["kind"]) == (-1, -1, 0)
    assert (row["time"], row["received"]) == (5, 9)
    assert key_of("u") == 317842356842568707
    assert key_of(7) == 7
    store = EventStore(SETTINGS)
    store.apply(decoded.batch)
    assert store.history(key_of("u"), 5).item.tolist() == [3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"action": "look"}, "action is 'look'; known are"),
        ({"action": ["view"]}, "action is"),
        ({"kind": "film"}, "kind is 'film'"),
        ({"time_ms": 1.5}, "time_ms is 1.5"),
        ({"time_ms": True}, "time_ms is True"),
        ({"time_ms": 1 << 60}, "time_ms is"),
        ({"event_id": None}, "event_id is None"),
        ({"user": ""}, "user is ''"),
        ({"user": -1}, "user is -1"),
        ({"item": 1 << 63}, "item is 9223372036854775808"),
        ({"item": None}, "item is None"),
        ({"brand": 1.0}, "brand is 1.0"),
        ({"action": "follow"}, "brand is None"),
        ({"action": "listed"}, "user is 'u'; listed has none"),
        ({"items": 1}, "unknown field 'items'"),
    ],
)
def test_a_wrong_field_is_named_and_the_others_pass(change, said):
    right = json.dumps(VIEW).encode()
    decoded = decode([right, json.dumps(VIEW | change).encode(), right], [1, 2, 3], SETTINGS)
    assert decoded.batch["received"].tolist() == [1, 3]
    ((position, message, reason),) = decoded.malformed
    assert (position, json.loads(message)) == (1, VIEW | change)
    assert said in reason


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "expected an object"),
        (b'{"user": 1, "user": 2}', "user"),
        (b"[" * 5000, "not JSON"),
        (b'{"event_id": "\\ud800"}', "half a character"),
        (b" " * 70_000, "70000 bytes"),
    ],
)
def test_what_is_no_object_is_malformed(message, said):
    decoded = decode([message], [1], SETTINGS)
    assert len(decoded.batch) == 0
    assert said in decoded.malformed[0].reason
