"""The event store beside its twin of dicts and lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.events.batch import EVENT, make_batch
from pipelines.events.keys import Keys
from pipelines.events.settings import BLOCK, FOLLOW, LISTED, OUT_OF_STOCK, StoreSettings
from pipelines.events.store import EventStore
from tests.pipelines.event_twin import Twin, random_batch

SMALL = StoreSettings(
    kinds=("item", "video"),
    retention_ms=1000,
    future_ms=50,
    max_events=40,
    max_per_user=12,
    max_per_list=5,
    max_relations=3,
    remembered_ids=32,
    expected_users=1,
    expected_brands=1,
    expected_items=1,
)


def check_same(store, twin, now=None):
    counts = store.counts()
    assert {name: counts[name] for name in twin.counts} == twin.counts
    assert counts["received"] == sum(twin.counts.values())
    assert counts["held"] == min(len(twin.events), twin.settings.max_events)
    assert sum(counts["by_action"].values()) == counts["applied"]
    assert store.now == twin.now
    for user in (*range(0, 5_000_015, 1_000_003), 77):
        for most in (0, 3, 100):
            found = store.history(user, most, now=now)
            assert list(zip(*(c.tolist() for c in found), strict=True)) == twin.history(
                user, most, now
            )
            for kind in (None, "item", "video"):
                code = None if kind is None else ("item", "video").index(kind)
                found = store.in_network(user, most, kind=kind, now=now)
                pairs = list(zip(found.item.tolist(), found.time.tolist(), strict=True))
                assert pairs == twin.in_network(user, most, code, now)
        for read, what in ((store.followed_brands, 0), (store.blocked_brands, 1)):
            assert read(user).tolist() == [b for _, b in sorted(twin.related(user, what))]
    for most in (0, 2, 100):
        found = store.new_items(most, now=now)
        pairs = list(zip(found.item.tolist(), found.time.tolist(), strict=True))
        assert pairs == twin.new_items(most, now)
    found, expected = store.activity(300.0, now=now), twin.activity(300.0, now)
    assert found.item.tolist() == sorted(expected)
    assert found.count.tolist() == [expected[item][1] for item in sorted(expected)]
    scores = [expected[item][0] for item in sorted(expected)]
    np.testing.assert_allclose(found.score, scores, rtol=1e-12)
    items = np.arange(14)
    assert store.available(items).tolist() == [twin.available(item) for item in range(14)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_any_events_give_what_dicts_of_lists_give(seed, sizes):
    rng = np.random.default_rng(seed)
    store, twin, clock = EventStore(SMALL), Twin(SMALL), 0
    for size in sizes:
        batch = random_batch(rng, size, clock)
        clock = int(batch["received"].max(initial=clock))
        before = twin.counts["applied"]
        twin.apply(batch)
        assert store.apply(batch) == twin.counts["applied"] - before
        check_same(store, twin)
    check_same(store, twin, now=store.now + 600)


def test_reads_do_not_depend_on_how_events_were_cut_into_batches():
    batch = random_batch(np.random.default_rng(1), 300)
    twin = Twin(SMALL)
    twin.apply(batch)
    for size in (1, 7, 300):
        store = EventStore(SMALL)
        for start in range(0, len(batch), size):
            store.apply(batch[start : start + size])
        check_same(store, twin)


def test_a_restored_store_has_the_same_columns_and_goes_on_the_same():
    rng = np.random.default_rng(2)
    store = EventStore(SMALL)
    store.apply(random_batch(rng, 200))
    again = EventStore(SMALL)
    again.apply(random_batch(rng, 30, 900))
    again.restore({name: column.copy() for name, column in store.state().items()})
    more = random_batch(rng, 90, 500)
    for one in (store, again):
        one.apply(more)
    assert store.counts() == again.counts()
    ours, theirs = store.state(), again.state()
    assert list(ours) == list(theirs)
    for name, column in ours.items():
        assert column.dtype == theirs[name].dtype
        np.testing.assert_array_equal(column, theirs[name], name)


def test_a_blocked_brand_and_what_cannot_be_had_are_never_in_network():
    store = EventStore(SMALL)
    batch = make_batch(6)
    batch["id"], batch["time"], batch["received"] = np.arange(6), 100, 100
    batch["action"] = [FOLLOW, FOLLOW, LISTED, LISTED, LISTED, OUT_OF_STOCK]
    batch["brand"] = [1, 2, 1, 2, 1, 1]
    batch["item"] = [-1, -1, 10, 20, 11, 11]
    store.apply(batch)
    assert store.in_network(0, 9).item.tolist() == [10, 20]
    block = batch[:1].copy()
    block["id"], block["action"] = 6, BLOCK
    store.apply(block)
    assert store.in_network(0, 9).item.tolist() == [20]
    assert store.followed_brands(0).tolist() == [1, 2]
    assert store.blocked_brands(0).tolist() == [1]


def test_events_that_leave_a_full_ring_too_early_are_counted():
    store = EventStore(SMALL)
    batch = make_batch(50)
    batch["id"], batch["item"] = np.arange(50), 1
    batch["time"] = batch["received"] = np.where(np.arange(50) < 4, 0, 2000)
    store.apply(batch)
    assert store.counts()["overwritten_early"] == 6  # Ten left, and four of them were old by then.


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("action", 3, "action=3"), ("kind", 2, "kind=2"), ("item", -1, "item=-1")],
)
def test_a_batch_with_a_wrong_value_is_refused_whole(field, value, said):
    store, batch = EventStore(SMALL), make_batch(3)
    batch["item"] = 1
    batch[field][2] = value
    with pytest.raises(ValueError, match=said):
        store.apply(batch)
    assert store.counts()["received"] == 0
    with pytest.raises(ValueError, match="EVENT"):
        store.apply(np.zeros(3))
    with pytest.raises(ValueError, match="kind='film'"):
        store.in_network(1, 1, kind="film")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"actions": ()}, "actions"),
        ({"actions": ("follow",)}, "follow"),
        ({"kinds": ("a", "a")}, "kinds"),
        ({"retention_ms": 0}, "retention_ms=0"),
        ({"max_events": 1 << 33}, "max_events"),
    ],
)
def test_settings_that_no_store_can_have_are_named(fields, said):
    with pytest.raises(ValueError, match=said):
        StoreSettings(**fields)


def test_keys_number_ids_in_the_order_in_which_they_come():
    rng = np.random.default_rng(3)
    keys, twin = Keys(2), {}
    for size in (0, 1, 50, 1000):
        ids = rng.choice([-1, 1, 1 << 40], size) * rng.integers(0, 300, size)
        expected = [twin.setdefault(int(one), len(twin)) for one in ids]
        assert keys.add(ids).tolist() == expected
    assert keys.ids.tolist() == list(twin)
    asked = np.arange(-310, 310)
    assert keys.find(asked).tolist() == [twin.get(int(one), -1) for one in asked]
    assert [keys.find_one(int(one)) for one in asked] == keys.find(asked).tolist()
    with pytest.raises(ValueError, match="room for 2"):
        Keys(2, grows=False).add(np.arange(3))


def test_a_store_of_a_million_events_takes_at_most_48_bytes_each():
    store = EventStore(StoreSettings(max_events=1_000_000, expected_users=100_000))
    assert store.num_bytes <= 48 * 1_000_000
    assert EVENT.itemsize == 58
