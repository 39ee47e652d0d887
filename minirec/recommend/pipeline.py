"""A feed's pipeline: sources name candidates, filters leave some out, scorers and a selector rank.

The stages and their names are those of xai-org/x-algorithm's candidate pipeline:

    query hydrators -> dependent query hydrators -> sources -> hydrators -> filters -> scorers ->
    selector -> post-selection hydrators -> post-selection filters -> finalizers -> side effects

Components of one stage that do not depend on each other run at the same time; filters and scorers
run in order. One that fails or takes too long costs its own part and nothing else: a source or a
hydrator is left out, a filter for comfort restores what it was given, and one for safety lets
nothing through that it guards. Whatever happened stands in the answer's trace.
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
        seconds: that it took.
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
        self._threads = concurrent.futures.ThreadPoolExecutor(num_threads, "feed")
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
            found = self._at_once(stage, query, lambda one, now=query: one.hydrate(now), steps)
            for values in found.values():
                query = query.with_values(values)
        named = self._at_once("sources", query, lambda one: one.find(query), steps)
        candidates = self._named(named)
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
                lambda one, now=before: one.finalize(query, now), steps,
            )  # fmt: skip
            candidates = before if final is None else final
        names = [source.name for source in self._stages["sources"]]
        feed = Feed(candidates, query, tuple(steps), removed, names)
        for component in self._stages["side_effects"]:
            if component.enable(query):
                self._after.submit(self._do_after, component, query, candidates)
        return feed

    def flush(self) -> None:
        """Waits until all side effects of answers so far have been done."""
        self._after.submit(lambda: None).result()

    def close(self) -> None:
        """Does what side effects are left, and ends the threads."""
        self._after.shutdown()
        self._threads.shutdown()

    def _named(self, found: Mapping[str, Candidates]) -> Candidates:
        """Returns all candidates, each with the sources that named it as bits of a column."""
        parts = []
        for bit, source in enumerate(self._stages["sources"]):
            part = found.get(source.name)
            if part is not None:
                bits = np.full(len(part), 1 << bit, np.int64)
                parts.append(part.with_columns({"sources": bits}))
        together = Candidates.together(parts)
        if not len(together):
            return together.with_columns({"sources": np.zeros(0, np.int64)})
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
                kept = ~component.guards(before)
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
        flying: list[tuple[Component, concurrent.futures.Future[Any] | None, str]] = []
        for component in self._stages[stage]:
            try:
                enabled = component.enable(query)
            except Exception as error:
                flying.append((component, None, _said(error)))
                continue
            if not enabled:
                steps.append(Step(stage, component.name, 0.0, given, given, "off"))
                continue
            flying.append((component, self._threads.submit(work, component), ""))
        found: dict[str, Any] = {}
        for component, future, error in flying:
            outcome = "failed" if future is None else "done"
            if future is not None:
                left = component.budget_s
                if left is not None:
                    left = max(0.0, left - (self._clock() - begun))
                try:
                    found[component.name] = future.result(left)
                except concurrent.futures.TimeoutError:
                    future.cancel()
                    outcome, error = "late", f"took more than {component.budget_s} s"
                except Exception as raised:
                    outcome, error = "failed", _said(raised)
            named = found.get(component.name)
            left = len(named) if isinstance(named, Candidates) else given
            seconds = self._clock() - begun
            self._note(steps, Step(stage, component.name, seconds, given, left, outcome, error))
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
        begun, outcome, error, found = self._clock(), "done", "", None
        try:
            if not component.enable(query):
                outcome = "off"
            elif component.budget_s is None:
                found = work(component)
            else:
                future = self._threads.submit(work, component)
                found = future.result(component.budget_s)
        except concurrent.futures.TimeoutError:
            outcome, error = "late", f"took more than {component.budget_s} s"
        except Exception as raised:
            outcome, error = "failed", _said(raised)
        seconds = self._clock() - begun
        self._note(steps, Step(stage, component.name, seconds, given, given, outcome, error))
        return found

    def _do_after(self, component: Component, query: FeedQuery, shown: Candidates) -> None:
        assert isinstance(component, SideEffect)
        try:
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


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
