"""A feed's pipeline: sources name candidates, filters leave some out, scorers and a selector rank.

The stages and their names are those of xai-org/x-algorithm's candidate pipeline:

    query hydrators -> dependent query hydrators -> sources -> hydrators -> filters -> scorers ->
    selector -> post-selection hydrators -> post-selection filters -> finalizers -> side effects

Components of one stage that do not depend on each other run at the same time; filters and scorers
run in order. One that fails or takes too long costs its own part and nothing else: a source or a
hydrator is left out, a filter for comfort restores what it was given, and one for safety lets
nothing through that it guards. What is late still runs (no thread can be stopped), and counts as
late at once where two of its calls of before have not ended. Whatever happened stands in the
answer's trace.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int

from minirec.recommend.candidates import Candidates

_LOG = logging.getLogger(__name__)
_MOST_SOURCES = 63  # bits of a column
_MOST_LATE = 2  # calls of a component that may be late and still run


@dataclasses.dataclass(frozen=True, eq=False)
class FeedQuery:
    """Who asks, and what is known of the request; hydrators add to it.

    Attributes:
        user: what the log calls them.
        now: seconds since 1970, when the request came.
        values: by name, what else is known.
    """

    user: str
    now: float
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a value, or `default` where there is none."""
        return self.values.get(name, default)

    def with_values(self, values: Mapping[str, Any]) -> FeedQuery:
        """Returns the query with further values."""
        return dataclasses.replace(self, values={**self.values, **values})


class Component:
    """A part of a pipeline.

    Attributes:
        name: what traces call it; the class's name unless it says otherwise.
        budget_s: seconds that it may take; None: as many as it likes.
    """

    name: str = ""
    budget_s: float | None = None

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if not cls.__dict__.get("name"):
            cls.name = cls.__name__

    def enable(self, query: FeedQuery) -> bool:
        """Returns whether it takes part in answering a query."""
        del query
        return True


class QueryHydrator(Component):
    """Learns more of a query."""

    def hydrate(self, query: FeedQuery) -> Mapping[str, Any]:
        """Returns what it has learnt."""
        raise NotImplementedError


class Source(Component):
    """Names candidates."""

    def find(self, query: FeedQuery) -> Candidates:
        """Returns candidates; none is an answer too."""
        raise NotImplementedError


class Hydrator(Component):
    """Learns more of candidates."""

    def hydrate(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns further columns."""
        raise NotImplementedError


class Filter(Component):
    """Leaves candidates out.

    Attributes:
        is_safety: whether what it would have left out must not be shown where it fails.
    """

    is_safety: ClassVar[bool] = False

    def keep(self, query: FeedQuery, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns which candidates stay."""
        raise NotImplementedError

    def guards(self, candidates: Candidates) -> Bool[np.ndarray, " n"]:
        """Returns which candidates a failing filter for safety does not let through."""
        return np.ones(len(candidates), bool)


class Scorer(Component):
    """Gives candidates scores: the column `score`, and others that explain it."""

    def score(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns columns; a NaN under `score` says that it has nothing to say."""
        raise NotImplementedError


class Selector(Component):
    """Chooses what is shown, and in which order."""

    def select(self, query: FeedQuery, candidates: Candidates) -> Int[np.ndarray, " k"]:
        """Returns places of candidates, the best first."""
        raise NotImplementedError


class Finalizer(Component):
    """Changes what was selected at last, such as where a place is kept for something."""

    def finalize(self, query: FeedQuery, candidates: Candidates) -> Candidates:
        """Returns what is shown."""
        raise NotImplementedError


class SideEffect(Component):
    """Does something with an answer that the answer does not wait for."""

    def run(self, query: FeedQuery, shown: Candidates) -> None:
        """Does it."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Step:
    """What a component did in answering a query.

    Attributes:
        stage: of the component.
        component: its name.
        seconds: that it took; of what is late, until nobody waited any more.
        given: candidates before it.
        left: candidates behind it.
        outcome: "done", "off" (`enable` said no), "failed" or "late".
        error: why it failed; "" where it did not.
    """

    stage: str
    component: str
    seconds: float
    given: int
    left: int
    outcome: str = "done"
    error: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Feed:
    """An answer.

    Attributes:
        shown: the candidates, best first, with all their columns.
        query: as the hydrators left it.
        steps: what each component did.
        removed: by item, the filter that left it out.
        source_names: of the bits of the column `sources`.
    """

    shown: Candidates
    query: FeedQuery
    steps: Sequence[Step]
    removed: Mapping[int, str]
    source_names: Sequence[str]

    @property
    def is_degraded(self) -> bool:
        """Whether a component failed or was late."""
        return any(step.outcome in ("failed", "late") for step in self.steps)

    def sources_of(self, place: int) -> list[str]:
        """Returns which sources named what is shown at a place."""
        bits = int(self.shown["sources"][place])
        return [name for bit, name in enumerate(self.source_names) if bits >> bit & 1]


class Pipeline:
    """Components wired together; answers queries, safe among threads."""

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        selector: Selector,
        query_hydrators: Sequence[QueryHydrator] = (),
        dependent_query_hydrators: Sequence[QueryHydrator] = (),
        hydrators: Sequence[Hydrator] = (),
        filters: Sequence[Filter] = (),
        scorers: Sequence[Scorer] = (),
        post_selection_hydrators: Sequence[Hydrator] = (),
        post_selection_filters: Sequence[Filter] = (),
        finalizers: Sequence[Finalizer] = (),
        side_effects: Sequence[SideEffect] = (),
        num_shown: int = 50,
        num_threads: int = 8,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Wires the components; each stage is as the module says.

        Args:
            sources: name candidates.
            selector: ranks them.
            query_hydrators: learn of the query, at the same time.
            dependent_query_hydrators: do so with what those have learnt.
            hydrators: learn of candidates, at the same time.
            filters: in order.
            scorers: in order.
            post_selection_hydrators: of what was selected.
            post_selection_filters: of the same.
            finalizers: in order.
            side_effects: after the answer.
            num_shown: candidates of an answer at most; the selector may name more, so that some
                are left where filters behind it leave some out.
            num_threads: that run components.
            clock: seconds.

        Raises:
            ValueError: no source, too many, or two components of one name in a stage.
        """
        self._stages: dict[str, Sequence[Component]] = {
            "query_hydrators": tuple(query_hydrators),
            "dependent_query_hydrators": tuple(dependent_query_hydrators),
            "sources": tuple(sources),
            "hydrators": tuple(hydrators),
            "filters": tuple(filters),
            "scorers": tuple(scorers),
            "selector": (selector,),
            "post_selection_hydrators": tuple(post_selection_hydrators),
            "post_selection_filters": tuple(post_selection_filters),
            "finalizers": tuple(finalizers),
            "side_effects": tuple(side_effects),
        }
        if not 0 < len(sources) <= _MOST_SOURCES:
            raise ValueError(f"sources: {len(sources)}; a pipeline has 1 to {_MOST_SOURCES}")
        for stage, components in self._stages.items():
            names = [component.name for component in components]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{stage}: two are called {twice[0]!r}")
        self._num_shown, self._clock = num_shown, clock
        # Whatever is late leaves so many threads to the others.
        budgets = sum(
            component.budget_s is not None
            for components in self._stages.values()
            for component in components
        )
        num_threads += _MOST_LATE * budgets
        self._threads = concurrent.futures.ThreadPoolExecutor(num_threads, "feed")
        self._late: collections.Counter[int] = collections.Counter()
        self._after = concurrent.futures.ThreadPoolExecutor(1, "feed side effects")
        self._counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self._lock = threading.Lock()

    def components(self) -> dict[str, list[str]]:
        """Returns by stage the names of the components that are wired."""
        return {
            stage: [component.name for component in components]
            for stage, components in self._stages.items()
        }

    def failures(self) -> dict[tuple[str, str, str], int]:
        """Returns how often each (stage, component) ended in which outcome, where not in "done"."""
        with self._lock:
            return dict(self._counts)

    def run(self, query: FeedQuery) -> Feed:
        """Returns the answer to a query; no component's failure raises."""
        steps: list[Step] = []
        removed: dict[int, str] = {}
        for stage in ("query_hydrators", "dependent_query_hydrators"):

            def learn(one: Any, now: FeedQuery = query) -> Mapping[str, Any]:
                values = one.hydrate(now)
                now.with_values(values)  # What is no mapping fails here, by itself.
                return values

            found = self._at_once(stage, query, learn, steps)
            for values in found.values():
                query = query.with_values(values)
        named = self._at_once("sources", query, lambda one: _candidates_of(one, query), steps)
        candidates = self._named(named, steps)
        candidates = self._hydrated("hydrators", query, candidates, steps)
        candidates = self._filtered("filters", query, candidates, steps, removed)
        candidates = self._scored(query, candidates, steps)
        candidates = self._selected(query, candidates, steps)
        candidates = self._hydrated("post_selection_hydrators", query, candidates, steps)
        stage = "post_selection_filters"
        candidates = self._filtered(stage, query, candidates, steps, removed)
        candidates = candidates.take(np.arange(min(len(candidates), self._num_shown)))
        for component in self._stages["finalizers"]:
            before = candidates
            final = self._one(
                "finalizers", component, query, len(before),
                lambda one, now=before: _checked(one.finalize(query, now)), steps,
            )  # fmt: skip
            candidates = before if final is None else final
            steps[-1] = dataclasses.replace(steps[-1], left=len(candidates))
        names = [source.name for source in self._stages["sources"]]
        feed = Feed(candidates, query, tuple(steps), removed, names)
        for component in self._stages["side_effects"]:
            self._after.submit(self._do_after, component, query, candidates)
        return feed

    def flush(self) -> None:
        """Waits until all side effects of answers so far have been done."""
        self._after.submit(lambda: None).result()

    def close(self) -> None:
        """Does what side effects are left, and lets the threads end; nobody waits for the late."""
        self._after.shutdown()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _named(self, found: Mapping[str, Candidates], steps: list[Step]) -> Candidates:
        """Returns all candidates, each with the sources that named it as bits of a column.

        A source whose columns do not fit those of the sources before it is left out.
        """
        together = Candidates.of(np.zeros(0, np.int64), sources=np.zeros(0, np.int64))
        for bit, source in enumerate(self._stages["sources"]):
            part = found.get(source.name)
            if part is None:
                continue
            bits = np.full(len(part), 1 << bit, np.int64)
            try:
                together = Candidates.together([together, part.with_columns({"sources": bits})])
            except Exception as error:
                step = Step("sources", source.name, 0.0, 0, 0, "failed", _said(error))
                self._note(steps, step)
        if not len(together):
            return together
        _, first, number = np.unique(together.item, return_index=True, return_inverse=True)
        bits = np.zeros(len(first), np.int64)
        np.bitwise_or.at(bits, number, together["sources"])
        return together.with_columns({"sources": bits[number]})

    def _hydrated(
        self, stage: str, query: FeedQuery, candidates: Candidates, steps: list[Step]
    ) -> Candidates:
        def learn(one: Any) -> Mapping[str, np.ndarray]:
            columns = one.hydrate(query, candidates)
            candidates.with_columns(columns)  # One of a wrong length fails here, by itself.
            return columns

        found = self._at_once(stage, query, learn, steps, len(candidates))
        for columns in found.values():
            candidates = candidates.with_columns(columns)
        return candidates

    def _filtered(
        self,
        stage: str,
        query: FeedQuery,
        candidates: Candidates,
        steps: list[Step],
        removed: dict[int, str],
    ) -> Candidates:
        for component in self._stages[stage]:
            assert isinstance(component, Filter)
            before = candidates

            def keep(one: Any, now: Candidates = before) -> np.ndarray:
                kept = np.asarray(one.keep(query, now))
                if kept.shape != (len(now),) or kept.dtype != bool:
                    raise ValueError(f"keep: {kept.dtype} {list(kept.shape)} of {len(now)}")
                return kept

            kept = self._one(stage, component, query, len(before), keep, steps)
            if kept is None:
                if steps[-1].outcome == "off" or not component.is_safety:
                    continue
                kept = _unguarded(component, before)
            candidates = before.take(kept)
            left = set(candidates.item.tolist())
            for item in before.item[~kept].tolist():
                if item not in left:  # A duplicate may have stayed.
                    removed.setdefault(item, component.name)
            steps[-1] = dataclasses.replace(steps[-1], left=len(candidates))
        return candidates

    def _scored(self, query: FeedQuery, candidates: Candidates, steps: list[Step]) -> Candidates:
        candidates = candidates.with_columns({"score": np.full(len(candidates), np.nan)})
        for component in self._stages["scorers"]:
            before = candidates

            def score(one: Any, now: Candidates = before) -> Candidates:
                return now.with_columns(one.score(query, now))

            scored = self._one("scorers", component, query, len(before), score, steps)
            candidates = before if scored is None else scored
        return candidates

    def _selected(self, query: FeedQuery, candidates: Candidates, steps: list[Step]) -> Candidates:
        # What was never scored is never ranked.
        scored = candidates.take(~np.isnan(candidates["score"]))
        (selector,) = self._stages["selector"]
        chosen = self._one(
            "selector", selector, query, len(candidates),
            lambda one: scored.take(np.asarray(one.select(query, scored))), steps,
        )  # fmt: skip
        if chosen is None:  # Without one, the order of scores is left.
            chosen = scored.take(np.lexsort((scored.item, -scored["score"])))
        steps[-1] = dataclasses.replace(steps[-1], left=len(chosen))
        return chosen

    def _at_once(
        self,
        stage: str,
        query: FeedQuery,
        work: Callable[[Any], Any],
        steps: list[Step],
        given: int = 0,
    ) -> dict[str, Any]:
        """Returns what the components of a stage found, each by its name; they run side by side."""
        begun = self._clock()
        flying = [
            (component, self._start(component, query, work)) for component in self._stages[stage]
        ]
        found: dict[str, Any] = {}
        for component, started in flying:
            left_s = component.budget_s
            if left_s is not None:
                left_s = max(0.0, left_s - (self._clock() - begun))
            ended = self._ended(component, started, left_s, begun)
            if ended.outcome == "done":
                found[component.name] = ended.value
            left = len(ended.value) if isinstance(ended.value, Candidates) else given
            step = Step(
                stage, component.name, ended.seconds, given, left, ended.outcome, ended.error
            )
            self._note(steps, step)
        return found

    def _one(
        self,
        stage: str,
        component: Component,
        query: FeedQuery,
        given: int,
        work: Callable[[Any], Any],
        steps: list[Step],
    ) -> Any:
        """Returns what a component found, or None where it is off, failed or was late."""
        begun = self._clock()
        started = self._start(component, query, work, here=component.budget_s is None)
        ended = self._ended(component, started, component.budget_s, begun)
        step = Step(stage, component.name, ended.seconds, given, given, ended.outcome, ended.error)
        self._note(steps, step)
        return ended.value

    def _start(
        self,
        component: Component,
        query: FeedQuery,
        work: Callable[[Any], Any],
        *,
        here: bool = False,
    ) -> _Ended | concurrent.futures.Future[_Ended]:
        """Starts a component, in another thread unless it is to be done here."""
        try:
            if not component.enable(query):
                return _Ended("off", 0.0)
        except Exception as error:
            return _Ended("failed", 0.0, error=_said(error))
        if self._late[id(component)] >= _MOST_LATE:
            return _Ended("late", 0.0, error=f"{_MOST_LATE} calls of before have not ended")

        def timed() -> _Ended:
            begun = self._clock()
            try:
                value = work(component)
            except Exception as error:
                return _Ended("failed", self._clock() - begun, error=_said(error))
            return _Ended("done", self._clock() - begun, value)

        return timed() if here else self._threads.submit(timed)

    def _ended(
        self,
        component: Component,
        started: _Ended | concurrent.futures.Future[_Ended],
        left_s: float | None,
        begun: float,
    ) -> _Ended:
        """Waits for a component, so many seconds at most."""
        if isinstance(started, _Ended):
            return started
        concurrent.futures.wait([started], left_s)
        if started.done():
            return started.result()
        if not started.cancel():  # It runs: nobody waits for it any more.
            with self._lock:
                self._late[id(component)] += 1
            started.add_done_callback(lambda _: self._no_longer_late(component))
        error = f"took more than {component.budget_s} s"
        return _Ended("late", self._clock() - begun, error=error)

    def _no_longer_late(self, component: Component) -> None:
        with self._lock:
            self._late[id(component)] -= 1

    def _do_after(self, component: Component, query: FeedQuery, shown: Candidates) -> None:
        assert isinstance(component, SideEffect)
        try:
            if component.enable(query):
                component.run(query, shown)
        except Exception as error:
            step = Step(
                "side_effects", component.name, 0.0, len(shown), len(shown), "failed", _said(error)
            )
            self._note([], step)

    def _note(self, steps: list[Step], step: Step) -> None:
        steps.append(step)
        if step.outcome in ("failed", "late"):
            with self._lock:
                self._counts[step.stage, step.component, step.outcome] += 1
            _LOG.warning("%s %s: %s: %s", step.stage, step.component, step.outcome, step.error)


@dataclasses.dataclass(frozen=True)
class _Ended:
    """How a component's call ended."""

    outcome: str
    seconds: float
    value: Any = None
    error: str = ""


def _candidates_of(source: Any, query: FeedQuery) -> Candidates:
    return _checked(source.find(query))


def _checked(found: Any) -> Candidates:
    if not isinstance(found, Candidates):
        raise TypeError(f"{type(found).__name__}; expected Candidates")
    return found


def _unguarded(component: Filter, candidates: Candidates) -> Bool[np.ndarray, " n"]:
    """Returns which candidates a filter for safety that fails does not guard."""
    try:
        return ~np.asarray(component.guards(candidates), bool)
    except Exception:  # It does not even know what it guards.
        return np.zeros(len(candidates), bool)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
