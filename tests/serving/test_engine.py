import threading

import numpy as np
import pytest

from minirec.serving.engine import Engine, Request
from minirec.serving.query import Query
from minirec.serving.recommender import EXCLUDED, answered
from minirec.serving.refusals import BadRequestError, LateError, RefusedError, SearchFailedError
from minirec.serving.rules import Rule
from tests.serving.small import BEAMS, NUM_ITEMS, TILE, Clock, SlowRecommender


def bits(answer):
    found = answer.found
    return found.item.tolist(), found.score.tobytes(), answer.rank_by


def requests(world, number, seed=0):
    """Requests of every kind: long and empty histories, rules, exclusions, rankings."""
    rng = np.random.default_rng(seed)
    made = []
    for place in range(number):
        history = [world.raw[item] for item in rng.integers(0, NUM_ITEMS, rng.integers(0, 12))]
        exclude = [world.raw[item] for item in rng.integers(0, NUM_ITEMS, place % 4)]
        allow = (
            (),
            (Rule("colour", "in", ("red",)),),
            (Rule("price", "<", 40.0), Rule("colour", "not_in", ("red",))),
        )[place % 3]
        rank_by = ("system", "model", "model_head", "item_head")[rng.integers(4)]
        made.append(
            Request(
                history,
                num=int(rng.integers(1, BEAMS + 1)),
                exclude=exclude,
                allow=allow,
                rank_by=rank_by,
                exclude_seen=(None, False)[place % 5 == 0],
                explain=place % 10 == 0,
            )
        )
    return made


def ask(engine, asked):
    futures = [engine.submit(request) for request in asked]
    return [bits(future.result(60)) for future in futures]


def test_an_answer_is_the_same_bits_alone_in_company_and_in_any_order(world, engine):
    asked = requests(world, 100)
    alone = [ask(engine, [request])[0] for request in asked]
    assert len({str(one) for one in alone}) > 80  # The requests do differ.
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(asked))
        together = ask(engine, [asked[place] for place in order])
        assert together == [alone[place] for place in order]


def test_what_was_read_before_changes_no_bit_and_is_not_read_again(world):
    asked = requests(world, 30)
    with_cache, without = (world.recommender(cache_bytes=size) for size in (1 << 20, 0))
    answers = []
    for recommender in (with_cache, without):
        engine = Engine(recommender, world.served(), exclude_seen=True, deadline_s=60.0)
        answers.append([ask(engine, asked), ask(engine, asked)])
        engine.close()
    assert answers[0][0] == answers[0][1] == answers[1][0] == answers[1][1]
    assert with_cache.cache.hits >= 30
    assert without.cache.hits == 0
    reads = []
    read = with_cache.programs.read
    with_cache.programs.read = lambda *args: reads.append(1) or read(*args)
    served = world.served()
    query = Query(np.array([1, 2], np.int32), np.zeros(0, np.int32), "model")
    allowed = np.ones(NUM_ITEMS, bool)
    first, second = (with_cache.start(served, [query], allowed)()[0] for _ in range(2))
    assert first.item.tolist() == second.item.tolist()
    assert len(reads) <= 1


def test_nothing_compiles_once_the_engine_stands(world, engine):
    before = engine.recommender.programs.num_traces
    ask(engine, requests(world, 40, seed=5))
    many = [world.raw[item] for item in range(NUM_ITEMS)]
    full = engine.submit(Request(["i1"], exclude=many[: EXCLUDED - 10], num=5)).result(60)
    assert set(full.found.item.tolist()).isdisjoint(range(EXCLUDED - 10))
    engine.swap(world.served(world.catalogue(2)), engine.stock)
    ask(engine, requests(world, 10, seed=6))
    assert engine.recommender.programs.num_traces == before


def test_the_search_obeys_every_filter(world, engine):
    colour = np.array([item % 2 for item in range(NUM_ITEMS)])
    for request in requests(world, 60, seed=9):
        answer = engine.submit(request).result(60)
        items = answer.found.item
        if request.exclude_seen is None:
            assert not {world.raw[item] for item in items} & set(request.history)
        assert not {world.raw[item] for item in items} & set(request.exclude)
        if len(request.allow) == 1:
            assert (colour[items] == 0).all()
        elif request.allow:
            assert (colour[items] == 1).all()
            assert (items < 40).all()
        assert len(items) <= request.num


def test_more_exclusions_than_a_tile_has_room_for_are_obeyed(world, monkeypatch):
    monkeypatch.setattr("minirec.serving.recommender.EXCLUDED", 3)
    recommender, served = world.recommender(), world.served()
    excluded = np.arange(0, 50, dtype=np.int32)
    queries = [
        Query(np.array([3], np.int32), excluded, name)
        for name in ("model", "system", "item_head", "model_head")
    ]
    found = answered(recommender, served, queries, np.ones(NUM_ITEMS, bool))
    for one in found:
        assert set(one.item.tolist()) <= set(range(50, NUM_ITEMS))
        assert len(one.item)


def test_an_answer_is_what_the_offline_search_says(world, engine):
    """The programs that `launch.evaluate` runs are others: their bits may differ, not the items."""
    served = engine.served
    ranker = served.ranker
    rng = np.random.default_rng(2)
    histories = [rng.integers(0, NUM_ITEMS, size).astype(np.int32) for size in (1, 3, 6, 2, 5)]
    width = max(map(len, histories))
    item = np.array([np.pad(history, (0, width - len(history))) for history in histories])
    seen = np.array(
        [np.pad(history, (0, width - len(history)), constant_values=-1) for history in histories]
    )
    batch = {
        "item": item.astype(np.int32),
        "lengths": np.array([len(history) for history in histories], np.int32),
        "history": seen.astype(np.int32),
        "row": np.arange(len(histories)),
        "valid": np.ones(len(histories), bool),
    }
    rankings = ranker.rank([batch], lambda rows: [histories[row] for row in rows])
    expected = served.system.rank(rankings.lists, rankings.histories, ranker.facts, BEAMS)
    for place, history in enumerate(histories):
        raw = [world.raw[item] for item in history]
        model = engine.submit(Request(raw, num=BEAMS, rank_by="model")).result(60).found
        offline = rankings.ranked.item[place]
        assert model.item.tolist() == offline[offline >= 0].tolist()
        np.testing.assert_allclose(
            model.score, rankings.ranked.item_score[place][offline >= 0], atol=1e-4
        )
        system = engine.submit(Request(raw, num=BEAMS)).result(60).found
        assert system.item.tolist() == expected.item[place][expected.item[place] >= 0].tolist()


def test_an_explanation_has_the_sources_and_the_search_level_by_level(world, engine):
    answer = engine.submit(
        Request(["i1", "i2"], explain=True, allow=(Rule("colour", "in", ("red",)),))
    ).result(60)
    explanation = answer.found.explanation
    assert set(explanation.sources) == {"model", "item_head", "item_transition", "content"}
    assert [level.sid.shape[1] for level in explanation.levels] == [1, 2, 3]
    first = explanation.levels[0]
    alive = np.isfinite(first.score)
    assert alive.any()
    assert (first.allowed[alive] > 0).all()
    assert (first.allowed <= first.children).all()
    assert (first.allowed[alive] < first.children[alive]).any()  # The rule removed some.
    last = explanation.levels[-1]
    tokens = engine.served.catalogue.item_tokens
    for sid in last.sid[np.isfinite(last.score)]:
        assert (tokens[:NUM_ITEMS] == sid).all(axis=1).any()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request(["nobody"]), "history[0]"),
        (Request(["i1"], exclude=["i2", "who"]), "exclude[1]"),
        (Request(["i1"], num=BEAMS + 1), "num"),
        (Request(["i1"], num=0), "num"),
        (Request(["i1"], rank_by="magic"), "rank_by"),
        (Request(["i1"], deadline_s=0.0), "deadline_ms"),
        (Request(["i1"], allow=(Rule("size", "in", ("L",)),)), "allow[0].column"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_field(engine, request_, field):
    with pytest.raises(BadRequestError) as error:
        engine.submit(request_)
    assert error.value.field == field


def test_unknown_ids_are_skipped_and_listed_where_that_is_asked_for(engine):
    both = engine.submit(Request(["i1", "nobody"], skip_unknown=True)).result(60)
    assert both.unknown == ("nobody",)
    assert bits(both) == bits(engine.submit(Request(["i1"])).result(60))


class SlowEngine:
    """An engine whose tiles end when a test says so."""

    def __init__(self, world, **options):
        self.slow = SlowRecommender()
        self.clock = Clock()
        self.engine = Engine(
            self.slow, world.served(), exclude_seen=False, clock=self.clock, **options
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.slow.go.set()
        self.engine.close()

    def submit(self, *history, **options):
        return self.engine.submit(Request([f"i{item}" for item in history], **options))

    def fill(self):
        """Lets two tiles be under way, as many as may be: one query, and a whole tile of others."""
        begun = [self.submit(0)]
        assert self.slow.begun.acquire(timeout=60)
        begun += [self.submit(0) for _ in range(TILE)]
        assert self.slow.begun.acquire(timeout=60)
        return begun


def test_what_waits_when_a_search_begins_goes_along_up_to_a_tile(world):
    with SlowEngine(world) as held:
        futures = held.fill()
        futures += [held.submit(item) for item in range(1, TILE + 3)]
        held.slow.go.set()
        for future in futures:
            future.result(60)
        sizes = [len(tile) for tile in held.slow.tiles]
        assert sizes == [1, TILE, TILE, 2]
        assert [tile[0] for tile in held.slow.tiles[2:]] == [[1], [TILE + 1]]


def test_a_request_is_refused_at_once_where_it_would_wait_too_long(world):
    with SlowEngine(world, max_queue=6) as held:
        held.fill()
        for _ in range(20):
            held.engine.admission.tile_done(1.0, 1.0)
        futures = [held.submit(1, deadline_s=0.5) for _ in range(TILE)]  # Less than a tile waits.
        with pytest.raises(RefusedError) as error:
            held.submit(1, deadline_s=0.5)
        assert error.value.reason == "overloaded"
        assert 3.4 <= error.value.retry_after_s <= 3.6  # Three tiles and its own, less its own.
        futures += [held.submit(1, deadline_s=9.0) for _ in range(2)]
        with pytest.raises(RefusedError) as error:
            held.submit(1, deadline_s=9.0)
        assert error.value.reason == "queue_full"
        held.slow.go.set()
        assert all(future.result(60) for future in futures)


def test_what_expires_in_the_queue_costs_nothing_and_what_is_late_is_no_answer(world):
    with SlowEngine(world) as held:
        first = held.submit(7, deadline_s=5.0)
        assert held.slow.begun.acquire(timeout=60)
        waiting = held.submit(8, deadline_s=5.0)
        second = held.submit(7, deadline_s=50.0)
        held.clock.now += 10.0
        held.slow.go.set()
        for future in (first, waiting):
            with pytest.raises(LateError):
                future.result(60)
        assert second.result(60)
        assert held.engine.drain(60)
        assert [8] not in [history for tile in held.slow.tiles for history in tile]


def test_a_second_search_begins_beside_a_first_only_where_a_whole_tile_waits(world):
    with SlowEngine(world) as held:
        futures = [held.submit(0)]
        assert held.slow.begun.acquire(timeout=60)
        futures += [held.submit(1) for _ in range(TILE - 1)]
        assert not held.slow.begun.acquire(timeout=0.05)
        futures.append(held.submit(1))
        assert held.slow.begun.acquire(timeout=60)
        held.slow.go.set()
        for future in futures:
            future.result(60)


def test_a_client_that_hangs_up_is_dropped_from_the_queue(world):
    with SlowEngine(world) as held:
        futures = held.fill()
        gone, stays = held.submit(5), held.submit(6)
        assert gone.cancel()
        held.slow.go.set()
        assert stays.result(60)
        assert [future.result(60) for future in futures]
        assert held.slow.tiles[-1] == [[6]]


def test_a_search_that_raises_fails_its_tile_and_no_other(world, caplog):
    with SlowEngine(world) as held:
        held.slow.error = RuntimeError("played")
        bad = held.submit(1)
        assert held.slow.begun.acquire(timeout=60)
        held.slow.go.set()
        with pytest.raises(SearchFailedError) as error:
            bad.result(60)
        assert error.value.failure_id in caplog.text
        assert held.submit(2).result(60)


def test_draining_answers_whom_it_has_taken_on_and_nobody_else(world):
    with SlowEngine(world) as held:
        futures = [*held.fill(), held.submit(3)]
        assert not held.engine.drain(0.01)
        with pytest.raises(RefusedError) as error:
            held.submit(4)
        assert error.value.reason == "draining"
        held.slow.go.set()
        assert held.engine.drain(60)
        assert all(future.done() for future in futures)


def test_who_waits_is_answered_by_the_version_that_was_served_when_it_came(world):
    with SlowEngine(world) as held:
        held.fill()
        before = held.submit(1)
        held.engine.swap(world.served(world.catalogue(2)), held.engine.stock)
        after = held.submit(1)
        held.slow.go.set()
        assert before.result(60).served.catalogue.number == 1
        assert after.result(60).served.catalogue.number == 2
        assert [len(tile) for tile in held.slow.tiles] == [1, TILE, 1, 1]


def test_waiting_for_company_is_asked_for_and_bounded(world):
    with SlowEngine(world, max_wait_s=30.0) as held:
        held.slow.go.set()
        futures = [held.submit(item) for item in range(TILE)]
        for future in futures:  # A whole tile does not wait.
            future.result(60)
        assert [len(tile) for tile in held.slow.tiles] == [TILE]


def test_many_threads_may_ask_at_once(world, engine):
    asked = requests(world, 40, seed=3)
    expected = ask(engine, asked)
    found = [None] * len(asked)

    def work(first):
        for place in range(first, len(asked), 4):
            found[place] = bits(engine.submit(asked[place]).result(60))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_what_came_too_late_leaves_more_room_before_later_deadlines(world):
    with SlowEngine(world) as held:
        futures = held.fill()
        futures += [held.submit(8, deadline_s=5.0) for _ in range(TILE)]
        held.clock.now += 30.0
        held.slow.go.set()
        for future in futures:
            with pytest.raises(LateError):
                future.result(60)
        assert held.engine.drain(60)
        # Nothing was expected to take long: nothing had been measured yet.
        assert held.engine.admission.error_s > 1.0
        assert held.engine.admission.margin_s > 5.0
