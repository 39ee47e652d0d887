"""Components that join people, items and events, each beside a loop that does the same."""

import math
import threading

import numpy as np
import pytest

from minirec.recommend import ItemTransition
from minirec.recommend.candidates import Candidates
from minirec.recommend.feed import hydrators, query_hydrators, side_effects, sources
from minirec.recommend.feed.filters import Blocked
from minirec.recommend.feed.judging import ActionProbabilities, RetrievalOrder
from minirec.recommend.feed.live import PastEvents, ShopEvents
from minirec.recommend.feed.scorers import WeightedScorer
from minirec.recommend.feed.selectors import TopK
from minirec.recommend.feed.shop import Shop
from minirec.recommend.pipeline import FeedQuery, Pipeline
from pipelines.events.by_name import StoreReads
from pipelines.events.messages import key_of
from pipelines.events.settings import LISTED, StoreSettings
from pipelines.events.store import EventStore
from tests.pipelines.event_twin import Twin, random_batch

N, USERS = 12, 5
RAW = [f"i{item}" for item in range(N)]
NOW = 30.0  # seconds


def shop():
    rng = np.random.default_rng(4)
    brand = np.arange(N) % 4 - 1
    return Shop(
        RAW, [f"Title {item}" for item in range(N)], brand, np.arange(N) % 3,
        np.where(np.arange(N) == 3, np.nan, 2.0 * np.arange(N)), rng.integers(0, 3, N),
        [f"b{b}" for b in range(3)], [f"c{c}" for c in range(3)],
        np.array([key_of(raw) for raw in RAW]),
        np.arange(3), np.arange(3),
    )  # fmt: skip


class World:
    """Random events in a store and in its twin, and a log of before of one user."""

    def __init__(self):
        settings = StoreSettings(retention_ms=25_000, future_ms=50, max_per_list=5)
        batch = random_batch(np.random.default_rng(7), 400, 5_000, kinds=1)
        batch["time"] += 2_000
        batch["received"] = batch["time"]
        # Of users by name; of the items there is one that the shop lacks.
        batch["user"] = [key_of(f"u{user // 1_000_003}") for user in batch["user"].tolist()]
        item = batch["item"] + 1
        batch["item"] = [key_of(f"i{one}") for one in item.tolist()]
        batch["brand"][batch["brand"] > 2] = 2
        batch["category"][batch["category"] > 2] = 2
        self.reads = StoreReads(4_000.0, clock=lambda: int(NOW * 1e3))
        self.reads.store, self.twin = EventStore(settings), Twin(settings)
        self.reads.store.apply(batch)
        self.twin.apply(batch)
        self.shop = shop()
        self.clock = 0.0
        before = PastEvents.of([1, 2, 1], [0, 2, 0], [1.0, 2.0, 3.0])
        self.events = ShopEvents(
            self.reads, self.shop,
            lambda user, most: before if user == "u1" else PastEvents.of(),
            clock=lambda: self.clock,
        )  # fmt: skip
        self.item_of = {key_of(raw): item for item, raw in enumerate(RAW)}

    def pairs(self, found):
        return [(self.item_of[item], time / 1e3) for item, time in found if item in self.item_of]

    def history(self, user, most=None):
        found = self.twin.history(key_of(user), most, now=int(NOW * 1e3))
        mine = [
            (self.item_of[item], action, time / 1e3)
            for item, _, _, action, time in found[::-1]
            if item in self.item_of
        ]
        return ([(1, 0, 1.0), (2, 2, 2.0), (1, 0, 3.0)] if user == "u1" else []) + mine


@pytest.fixture(scope="module")
def world():
    return World()


def asked(world, user, **values):
    """A query as the query hydrators leave it."""
    query = FeedQuery(user, NOW, values)
    for one in (
        query_hydrators.History(world.events, 100), query_hydrators.Bought(2),
        query_hydrators.Followed(world.events), query_hydrators.BlockedBrands(world.events),
    ):  # fmt: skip
        query = query.with_values(one.hydrate(query))
    return query


USER_NAMES = [f"u{user}" for user in range(USERS)]


@pytest.mark.parametrize("user", [*USER_NAMES, "nobody"])
def test_a_query_learns_what_loops_find(world, user):
    query, mine = asked(world, user), world.history(user)
    past = query["past"]
    assert list(zip(past.item, past.action, past.time, strict=True)) == mine
    assert query["is_new_user"] == (len(mine) < 5)
    assert query["bought_items"] == {item: time for item, action, time in mine if action == 2}
    for name, what in (("followed_brand", 0), ("blocked_brand", 1)):
        brands = [brand for _, brand in sorted(world.twin.related(key_of(user), what))]
        assert query[name].tolist() == [brand for brand in brands if brand < 3]
    few = query_hydrators.History(world.events, 2).hydrate(FeedQuery(user, NOW))["past"]
    assert few.item.tolist() == [item for item, _, _ in world.history(user, 2)[-2:]]


@pytest.mark.parametrize("user", [*USER_NAMES, "nobody"])
def test_sources_name_what_loops_name(world, user):
    query, mine, now = asked(world, user), world.history(user), int(NOW * 1e3)
    new = world.pairs(world.twin.in_network(key_of(user), 9, None, now))
    activity = world.twin.activity(4_000.0, now)
    popular = sorted(
        ((-score, world.item_of[key]) for key, (score, _) in activity.items()
         if key in world.item_of)
    )  # fmt: skip
    bought = {item for item, action, _ in mine if action == 2}
    newest_first = list(dict.fromkeys(item for item, _, _ in mine[::-1]))
    counts = ItemTransition(np.array([0, 1, 2, 1, 2, 5]), np.array([0, 6]), N)
    followers = counts.rank_followers(
        [[item for item, _, _ in mine][-10:]], 4, exclude_seen=False
    ).item[0]
    order = np.array([5, 3, 1, 0])
    cases = [
        (sources.InNetwork(world.events, 9), [item for item, _ in new]),
        (sources.NewItems(world.events, 3),
         [item for item, _ in world.pairs(world.twin.new_items(3, now))]),
        (sources.Recency(6), [item for item in newest_first if item not in bought][:6]),
        (sources.TransitionCount(counts, 4), [item for item in followers.tolist() if item >= 0]),
        (sources.Bestsellers(order, 2), [5, 3]),
    ]  # fmt: skip
    for one, expected in cases:
        found = one.find(query)
        assert found.item.tolist() == expected, one.name
        assert found["place"].tolist() == list(range(len(expected)))
    named = sources.PopularNow(world.events, 6).find(query).item.tolist()
    scores = {item: -score for score, item in popular}
    assert [round(scores[item], 9) for item in named] == [round(-s, 9) for s, _ in popular[:6]]


class Nearest:
    """Towers whose best item is the newest of the history, then the one after it, …"""

    actions = ("view", "buy")

    def find(self, past, most, now):
        first = int(past.item[-1])
        item = np.array([*(range(first, min(first + most, N))), -1])
        return item, -np.arange(len(item), dtype=float)

    def vectors(self, items):
        return np.stack([items, items**2], axis=1).astype(float)

    def probabilities(self, past, items, now):
        assert now == NOW
        return np.stack([1 / (1 + items + len(past.item)), items / N], axis=1)


def test_finders_are_asked_with_the_history_and_not_without_one(world):
    query = asked(world, "u1")
    last = int(query["past"].item[-1])
    for kind, column in (
        (sources.TwoTower, "two_tower"), (sources.SidBeams, "sid_beams"),
        (sources.ItemTable, "item_table"),
    ):  # fmt: skip
        one = kind(Nearest(), 3)
        assert one.enable(query)
        assert not one.enable(FeedQuery("nobody", NOW))
        found = one.find(query)
        assert found.item.tolist() == list(range(last, min(last + 3, N)))
        assert found[column].tolist() == [-float(n) for n in range(len(found))]
        with pytest.raises(ValueError, match="most"):
            kind(Nearest(), 0)


def test_candidates_learn_what_loops_find(world):
    query, mine, now = asked(world, "u1"), world.history("u1"), int(NOW * 1e3)
    items = np.array([3, 0, 7, 3, 11, 5])
    some = Candidates.of(items, place=np.array([0.0, 1.0, 0.0, 2.0, np.nan, 3.0]))
    found = {}
    kinds = [
        hydrators.ItemData(world.shop), hydrators.Stock(world.events),
        hydrators.Ages(world.events, world.shop, new_s=3.0), hydrators.Network(world.shop),
        hydrators.Counts(world.events), hydrators.Vectors(Nearest()), hydrators.Fused(),
    ]  # fmt: skip
    for one in kinds:
        found |= one.hydrate(query, some)
        assert all(len(c) == 0 for c in one.hydrate(query, some.take(np.zeros(6, bool))).values())
    listed = dict(world.pairs(world.twin.new_items(None, now)))
    activity = world.twin.activity(4_000.0, now)
    followed = set(query["followed_brand"].tolist())
    brands = [int(world.shop.brand[item]) for item, _, _ in mine]
    categories = [int(world.shop.category[item]) for item, _, _ in mine]
    for place, item in enumerate(items.tolist()):
        key, brand, category = key_of(RAW[item]), item % 4 - 1, item % 3
        assert found["title"][place] == f"Title {item}"
        assert found["brand"][place] == brand
        assert math.isnan(found["price"][place]) == (item == 3)
        assert found["in_stock"][place] == world.twin.available(key)
        age = NOW - listed[item] if item in listed else math.nan
        np.testing.assert_allclose(found["age_s"][place], age)
        assert found["is_new"][place] == (age <= 3.0 or world.shop.train_count[item] == 0)
        inside = brand in followed or (brand >= 0 and brands.count(brand) > 1)
        assert found["in_network"][place] == (inside or categories.count(category) > 1)
        counts = activity.get(key, (0, [0, 0, 0]))[1]
        assert (found["views"][place], found["likes"][place]) == (sum(counts), sum(counts[1:]))
        assert found["vector"][place].tolist() == [item, item**2]
        shares = [
            1 / (61 + (0 if math.isnan(p) else p))
            for i, p in zip(items, some["place"], strict=True)
            if i == item
        ]
        assert found["fused"][place] == pytest.approx(sum(shares))


def test_what_all_users_do_is_looked_at_once_a_while(world):
    looks = []
    reads = world.reads

    class Counting:
        def activity(self):
            looks.append(world.clock)
            return reads.activity()

    events = ShopEvents(Counting(), world.shop, popularity_s=1.0, clock=lambda: world.clock)
    for world.clock in (0.0, 0.5, 0.99, 1.0, 1.5, 3.0):
        events.popularity()
    assert looks == [0.0, 1.0, 3.0]


class Broken:
    actions = ("view",)

    def probabilities(self, past, items, now):
        raise OSError("nobody answers")


def feed_of(world, ranker, effects=(), **values):
    pipeline = Pipeline(
        query_hydrators=[query_hydrators.History(world.events, 100)],
        sources=[sources.TwoTower(Nearest(), 4), sources.Recency(9)],
        hydrators=[hydrators.Fused()],
        scorers=[
            ActionProbabilities(ranker, budget_s=30.0),
            WeightedScorer({"view": 1.0, "buy": 2.0}),
            RetrievalOrder(),
        ],
        selector=TopK(5),
        side_effects=effects,
    )
    feed = pipeline.run(FeedQuery("u1", NOW, values))
    pipeline.flush()
    pipeline.close()
    return feed


def test_weights_of_a_request_count_and_what_the_ranker_says_is_kept(world):
    feed = feed_of(world, Nearest())
    past = world.history("u1")
    for place, item in enumerate(feed.shown.item.tolist()):
        view, buy = 1 / (1 + item + len(past)), item / N
        assert feed.shown["p_view"][place] == pytest.approx(view)
        assert feed.shown["score"][place] == pytest.approx(view + 2 * buy + 0.001)
    only = feed_of(world, Nearest(), weights={"view": 1.0, "buy": 0.0})
    assert only.shown.item.tolist() == sorted(only.shown.item.tolist())
    assert not only.is_degraded


def test_without_a_ranker_the_sources_order_stands_and_says_so(world):
    feed = feed_of(world, Broken())
    assert feed.is_degraded
    assert feed.shown["by_retrieval"].all()
    fused = feed.shown["fused"].tolist()
    assert fused == sorted(fused, reverse=True)
    scored = Candidates.of([1, 2], score=np.array([0.5, np.nan]), fused=np.array([0.1, 0.2]))
    assert RetrievalOrder().score(FeedQuery("u1", NOW), scored) == {}


def test_what_was_shown_is_kept_told_counted_and_known_again(world):
    shown, cache, sent, counted = side_effects.ServedHistory(), side_effects.RequestCache(), [], []

    class Topic:
        def send(self, message):
            sent.append(message)

    effects = [
        shown, cache, side_effects.ServedTopic(Topic(), RAW),
        side_effects.CountShown(lambda query, some: counted.append(len(some))),
    ]  # fmt: skip
    feed = feed_of(world, Nearest(), effects, request_id="r1")
    items = feed.shown.item.tolist()
    assert shown.of("u1", NOW + 10).tolist() == items
    assert shown.of("u1", NOW + 3601).tolist() == shown.of("u2", NOW).tolist() == []
    assert cache.of("u1", "r1", NOW).item.tolist() == items
    assert cache.of("u1", "r1", NOW + 61) is None
    assert cache.of("u1", "r2", NOW) is None
    (message,) = sent
    assert message["items"] == [RAW[item] for item in items]
    assert (message["user"], message["time_ms"], counted) == ("u1", 30_000, [len(items)])
    query = FeedQuery("u1", NOW, {"leave_out_served": True})
    before = query_hydrators.ServedBefore(shown)
    assert before.enable(query)
    assert not before.enable(FeedQuery("u1", NOW))
    assert before.hydrate(query)["served_items"].tolist() == items


def test_what_is_kept_of_users_and_requests_has_bounds():
    shown = side_effects.ServedHistory(most_users=2, most_items=3)
    cache = side_effects.RequestCache(most=2)
    some = Candidates.of([1, 2], score=np.zeros(2))
    for number, user in enumerate(("a", "b", "a", "c")):
        query = FeedQuery(user, NOW, {"request_id": f"r{number}"})
        shown.run(query, some)
        cache.run(query, some)
    assert shown.of("b", NOW).tolist() == []
    assert shown.of("a", NOW).tolist() == [2, 1, 2]
    assert cache.of("a", "r0", NOW) is None
    assert cache.of("c", "r3", NOW).item.tolist() == [1, 2]


def test_readers_of_popularity_share_one_look(world):
    started, looks = threading.Barrier(4), []

    class Slow:
        def activity(self):
            looks.append(1)
            return world.reads.activity()

    events = ShopEvents(Slow(), world.shop, clock=lambda: 0.0)

    def read():
        started.wait()
        events.popularity()

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looks == [1]


def test_the_batch_of_this_file_has_new_items(world):
    assert LISTED in world.reads.store.settings.action_codes.values()
    assert len(world.pairs(world.twin.new_items(None, int(NOW * 1e3)))) > 2


class Away:
    """A store that may be away."""

    def __init__(self, reads):
        self.reads, self.is_away = reads, False

    def __getattr__(self, name):
        if self.is_away:
            raise OSError("nobody answers")
        return getattr(self.reads, name)


def test_where_the_store_is_away_its_last_word_stands_and_nothing_blocked_is_shown(world):
    store = Away(world.reads)
    events = ShopEvents(store, world.shop)
    items = np.arange(N)
    blocker = next(
        user for user in USER_NAMES if any(b < 3 for _, b in world.twin.related(key_of(user), 1))
    )
    before = events.history(blocker, 9), events.blocked(blocker), events.available(items)
    store.is_away = True
    after = events.history(blocker, 9), events.blocked(blocker), events.available(items)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(np.concatenate([one]), np.concatenate([other]))
    assert len(events.history("stranger", 9).item) == 0
    for ask in (events.new_items, lambda most: events.blocked("stranger")):
        with pytest.raises(OSError, match="nobody answers"):
            ask(3)
    pipeline = Pipeline(
        query_hydrators=[query_hydrators.BlockedBrands(events)],
        sources=[sources.Bestsellers(items, N)],
        hydrators=[hydrators.ItemData(world.shop), hydrators.Fused()],
        filters=[Blocked("brand", must_be_known=True)],
        scorers=[RetrievalOrder()],
        selector=TopK(N),
    )
    shown = pipeline.run(FeedQuery(blocker, NOW)).shown
    assert len(shown)
    assert not np.isin(shown["brand"], before[1]).any()
    # Of somebody of whom nobody ever heard whom they block, no brand is shown.
    assert set(pipeline.run(FeedQuery("stranger", NOW)).shown["brand"].tolist()) == {-1}
    pipeline.close()
