"""The framework of a feed: order of stages, failures by kind, traces, side effects."""

import threading
import time

import numpy as np
import pytest

from minirec.recommend.candidates import Candidates
from minirec.recommend.feed.filters import Duplicates
from minirec.recommend.feed.selectors import TopK
from minirec.recommend.pipeline import (
    FeedQuery,
    Filter,
    Finalizer,
    Hydrator,
    Pipeline,
    QueryHydrator,
    Scorer,
    SideEffect,
    Source,
)


class Names(Source):
    def __init__(self, name, items, **columns):
        self.name, self.items, self.columns = name, items, columns

    def find(self, query):
        return Candidates.of(self.items, **self.columns)


class ById(Scorer):
    def score(self, query, candidates):
        return {"score": candidates.item.astype(float)}


class Odd(Filter):
    def keep(self, query, candidates):
        return candidates.item % 2 == 1


class Raises:
    """Makes a component fail, or be late, at its only method."""

    def __init__(self, name="Raises", wait=None):
        self.name, self.wait = name, wait
        if wait is not None:
            self.budget_s = 0.01

    def _fail(self, *_):
        if self.wait is not None:
            assert self.wait.wait(60)
            return Candidates.of([99])
        raise RuntimeError("played")

    find = hydrate = keep = score = select = finalize = run = _fail


def failing(kind, **options):
    return type("Failing", (Raises, kind), {})(**options)


def pipeline(**stages):
    stages = {
        "sources": [Names("a", [1, 2, 3])],
        "scorers": [ById()],
        "selector": TopK(10),
    } | stages
    return Pipeline(**stages)


def run(one, **values):
    try:
        return one.run(FeedQuery("ann", 0.0, values))
    finally:
        one.close()


def test_an_answer_says_who_named_what_and_what_left_the_others_out():
    one = pipeline(
        sources=[Names("a", [1, 2, 3]), Names("b", [3, 5, 3]), Names("c", [])],
        filters=[Duplicates(), Odd()],
    )
    feed = run(one)
    assert feed.shown.item.tolist() == [5, 3, 1]
    assert [feed.sources_of(place) for place in range(3)] == [["b"], ["a", "b"], ["a"]]
    assert feed.removed == {2: "Odd"}
    assert not feed.is_degraded
    given = [(step.component, step.given, step.left) for step in feed.steps]
    assert given == [
        ("a", 0, 3), ("b", 0, 3), ("c", 0, 0), ("Duplicates", 6, 4), ("Odd", 4, 3),
        ("ById", 3, 3), ("TopK", 3, 3),
    ]  # fmt: skip
    assert one.components()["filters"] == ["Duplicates", "Odd"]
    assert set(one.components()) >= {"sources", "selector", "side_effects"}


def test_query_hydrators_depend_on_those_of_the_stage_before():
    class First(QueryHydrator):
        def hydrate(self, query):
            return {"x": 2}

    class Second(QueryHydrator):
        def hydrate(self, query):
            return {"y": query["x"] * 5}

    class OfQuery(Source):
        def find(self, query):
            return Candidates.of([query["y"]])

    feed = run(
        pipeline(
            query_hydrators=[First()], dependent_query_hydrators=[Second()], sources=[OfQuery()]
        )
    )
    assert feed.shown.item.tolist() == [10]
    assert feed.query["y"] == 10


def test_components_of_a_stage_run_at_the_same_time():
    both = threading.Barrier(2, timeout=60)

    class Meets(Names):
        def find(self, query):
            both.wait()
            return super().find(query)

    feed = run(pipeline(sources=[Meets("a", [1]), Meets("b", [2])]))
    assert feed.shown.item.tolist() == [2, 1]


@pytest.mark.parametrize("late", [False, True])
def test_a_source_or_hydrator_that_fails_or_is_late_costs_its_own_part(late):
    go = threading.Event() if late else None
    one = pipeline(
        sources=[Names("a", [1, 2]), failing(Source, wait=go)],
        hydrators=[failing(Hydrator, name="Lost")],
        query_hydrators=[failing(QueryHydrator)],
    )
    feed = one.run(FeedQuery("ann", 0.0))
    if go is not None:
        go.set()
    one.close()
    assert feed.shown.item.tolist() == [2, 1]
    assert feed.is_degraded
    outcomes = {(step.stage, step.component): step.outcome for step in feed.steps}
    assert outcomes["sources", "Raises"] == ("late" if late else "failed")
    assert outcomes["hydrators", "Lost"] == "failed"
    assert one.failures()["hydrators", "Lost", "failed"] == 1
    errors = [step.error for step in feed.steps if step.outcome == "failed"]
    assert "RuntimeError: played" in errors


def test_a_failing_filter_for_comfort_restores_and_one_for_safety_lets_nothing_through():
    assert run(pipeline(filters=[failing(Filter)])).shown.item.tolist() == [3, 2, 1]

    class Safe(Raises, Filter):
        is_safety = True

    assert run(pipeline(filters=[Safe()])).shown.item.tolist() == []

    class Guards(Safe):
        def guards(self, candidates):
            return candidates.item > 1

    feed = run(pipeline(filters=[Guards()]))
    assert feed.shown.item.tolist() == [1]
    assert feed.removed == {2: "Raises", 3: "Raises"}

    class Wrong(Filter):
        def keep(self, query, candidates):
            return np.ones(7, bool)

    assert run(pipeline(filters=[Wrong()])).is_degraded


def test_what_was_never_scored_is_never_ranked():
    class Some(Scorer):
        def score(self, query, candidates):
            return {"score": np.where(candidates.item == 2, np.nan, -1.0)}

    assert run(pipeline(scorers=[Some()])).shown.item.tolist() == [1, 3]
    assert run(pipeline(scorers=[])).shown.item.tolist() == []
    feed = run(pipeline(scorers=[ById(), failing(Scorer)]))
    assert feed.shown.item.tolist() == [3, 2, 1]  # The scores before it stay.


def test_a_failing_selector_leaves_the_order_of_scores():
    from minirec.recommend.pipeline import Selector

    feed = run(pipeline(selector=failing(Selector)))
    assert feed.shown.item.tolist() == [3, 2, 1]
    assert feed.is_degraded


def test_what_is_off_takes_no_part_and_finalizers_come_last():
    class Off(Odd):
        def enable(self, query):
            return query.get("odd", True)

    class Turned(Finalizer):
        def finalize(self, query, candidates):
            return candidates.take(np.arange(len(candidates))[::-1])

    stages = {"filters": [Off()], "finalizers": [Turned(), failing(Finalizer)]}
    assert run(pipeline(**stages)).shown.item.tolist() == [1, 3]
    feed = run(pipeline(**stages, num_shown=2), odd=False)
    assert feed.shown.item.tolist() == [2, 3]
    assert [step.outcome for step in feed.steps if step.component == "Off"] == ["off"]


def test_filters_behind_the_selector_leave_enough_to_show():
    feed = run(
        pipeline(sources=[Names("a", range(10))], post_selection_filters=[Odd()], num_shown=3)
    )
    assert feed.shown.item.tolist() == [9, 7, 5]


def test_side_effects_neither_delay_an_answer_nor_are_lost():
    go, served = threading.Event(), []

    class Served(SideEffect):
        def run(self, query, shown):
            assert go.wait(60)
            served.append(shown.item.tolist())

    one = pipeline(side_effects=[Served(), failing(SideEffect)])
    feed = one.run(FeedQuery("ann", 0.0))
    assert feed.shown.item.tolist() == [3, 2, 1]
    assert served == []
    go.set()
    one.flush()
    assert served == [[3, 2, 1]]
    one.close()
    assert one.failures() == {("side_effects", "Raises", "failed"): 1}


def test_a_budget_is_of_the_stage_and_not_of_each_in_a_row():
    go = threading.Event()
    slow = [failing(Source, name=f"s{number}", wait=go) for number in range(3)]
    for one in slow:
        one.budget_s = 0.2
    one = pipeline(sources=[Names("a", [1]), *slow])
    begun = time.monotonic()
    feed = one.run(FeedQuery("ann", 0.0))
    took = time.monotonic() - begun
    go.set()
    one.close()
    assert feed.shown.item.tolist() == [1]
    assert took < 3 * 0.2  # Waited for once, not three times.


def test_what_is_late_takes_no_thread_from_the_others_and_is_not_waited_for():
    go = threading.Event()
    slow = failing(Source, name="slow", wait=go)
    one = pipeline(sources=[Names("a", [1]), slow], num_threads=1)
    for _ in range(6):
        assert one.run(FeedQuery("ann", 0.0)).shown.item.tolist() == [1]
    assert one.failures()["sources", "slow", "late"] == 6
    assert sum(thread.name.startswith("feed_") for thread in threading.enumerate()) <= 3
    one.close()  # Nor does the end wait for it.
    go.set()


def test_a_steps_time_is_its_own_and_its_own_timeouts_are_failures():
    ended = threading.Event()

    class Slow(Names):
        def find(self, query):
            assert ended.wait(60)
            time.sleep(0.2)
            return super().find(query)

    class Quick(Names):
        def find(self, query):
            ended.set()
            raise TimeoutError("the database")

    feed = run(pipeline(sources=[Slow("slow", [1]), Quick("quick", [])]))
    steps = {step.component: step for step in feed.steps}
    assert steps["slow"].seconds >= 0.2 > steps["quick"].seconds
    assert (steps["quick"].outcome, steps["quick"].error) == (
        "failed", "TimeoutError: the database",
    )  # fmt: skip


def test_nothing_that_a_component_returns_or_raises_ends_the_answer():
    class WrongHydrator(QueryHydrator):
        def hydrate(self, query):
            return None

    class NoCandidates(Source):
        def find(self, query):
            return [1, 2]

    class Asks(SideEffect):
        def enable(self, query):
            raise RuntimeError("played")

    class Lost(Raises, Filter):
        is_safety = True

        def guards(self, candidates):
            raise RuntimeError("played")

    wide = Names("wide", [7], vector=np.ones((1, 8)))
    narrow = Names("narrow", [8], vector=np.ones((1, 4)))
    one = pipeline(
        query_hydrators=[WrongHydrator()],
        sources=[Names("a", [1]), NoCandidates(), wide, narrow],
        finalizers=[failing(Finalizer)],
        side_effects=[Asks()],
    )
    feed = one.run(FeedQuery("ann", 0.0))
    one.flush()
    one.close()
    assert feed.shown.item.tolist() == [7, 1]
    assert {name for _, name, _ in one.failures()} == {
        "WrongHydrator", "NoCandidates", "narrow", "Raises", "Asks",
    }  # fmt: skip
    assert run(pipeline(filters=[Lost()])).shown.item.tolist() == []


def test_impossible_pipelines_are_refused():
    with pytest.raises(ValueError, match="sources: 0"):
        pipeline(sources=[])
    with pytest.raises(ValueError, match="two are called 'a'"):
        pipeline(sources=[Names("a", []), Names("a", [])])


def test_columns_of_candidates_fit_each_other():
    with pytest.raises(ValueError, match="'score' has 1 entries"):
        Candidates.of([1, 2], score=np.zeros(1))
    with pytest.raises(ValueError, match="'item' is missing"):
        Candidates({"score": np.zeros(1)})
    with pytest.raises(ValueError, match="'item' says"):
        Candidates.of([1]).with_columns({"item": np.zeros(1)})
    both = Candidates.together(
        [Candidates.of([1], x=np.array([0.5]), new=np.array([True])), Candidates.of([2])]
    )
    assert both.item.tolist() == [1, 2]
    assert both["new"].tolist() == [True, False]
    assert both["x"][0] == 0.5
    assert np.isnan(both["x"][1])
