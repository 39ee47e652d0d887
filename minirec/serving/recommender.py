"""Ranks tiles of queries with a model, the counts beside it, and one version of the catalogue."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int

from minirec.decoding.ranking import RankedItems, RankedUsers
from minirec.recommend.ranked_lists import RankedLists
from minirec.recommend.ranker import Ranker, Rankings
from minirec.recommend.rescored import rescored
from minirec.recommend.sources import ITEM_HEAD, MODEL, MODEL_HEAD, SYSTEM
from minirec.recommend.system import System
from minirec.serving.catalogue import Catalogue
from minirec.serving.programs import Filters, Programs, Weights
from minirec.serving.query import Explanation, Found, Level, Query
from minirec.serving.reader import Reader
from minirec.serving.reading_cache import ReadingCache
from minirec.sids.text_transform import unit_rows

EXCLUDED = 64
"""Excluded items of a query that a tile has room for; a query with more has a tile of its own."""


class Prompts(Protocol):
    """Turns histories into what a model reads; every history has one width, whatever the others."""

    @property
    def widths(self) -> Sequence[int]:
        """What prompts are padded to, ascending."""
        ...

    def __call__(self, history: Int[np.ndarray, " H"]) -> Int[np.ndarray, " n"]:
        """Returns a prompt, without padding; as long as the largest of `widths` at most."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """What answers are made with, all of one version.

    Attributes:
        model_version: names the model's weights, and what was chosen with them.
        weights: of the model, with the catalogue's SIDs where it reads them.
        ranker: the sources beside the model, over the catalogue's items.
        system: how the sources are fused; None where nobody has chosen.
        catalogue: the items.
    """

    model_version: str
    weights: Weights
    ranker: Ranker
    system: System | None
    catalogue: Catalogue

    @functools.cached_property
    def item_vectors(self) -> Float32[np.ndarray, "known D"] | None:
        """The rows of the model's item table, of length one; None where it has none."""
        rows_of = getattr(self.weights.model, "item_rows", None)
        if rows_of is None or self.ranker.item_ranker is None:
            return None
        return unit_rows(np.asarray(rows_of(), np.float32))

    @property
    def rankings(self) -> tuple[str, ...]:
        """What items can be ranked by, the default first."""
        names = [MODEL]
        if self.ranker.item_ranker is not None:
            names += [MODEL_HEAD, ITEM_HEAD]
        if self.system is not None:
            names.insert(0, SYSTEM)
        return tuple(names)


class Recommender:
    """Answers queries by tiles: the same query gets the same bits in any company.

    Attributes:
        programs: the compiled ones.
        cache: of readings.
    """

    def __init__(self, programs: Programs, prompts: Prompts, cache: ReadingCache):
        """Compiles nothing yet.

        Args:
            programs: the compiled ones.
            prompts: makes what the model reads.
            cache: of readings.
        """
        self.programs, self.cache = programs, cache
        self._prompts = prompts
        self._reader = Reader(programs, cache)

    @property
    def tile(self) -> int:
        """Queries that are answered together at most."""
        return self.programs.tile

    def key(self, query: Query) -> tuple[Any, ...]:
        """Returns what queries must have in common to share a tile."""
        prompt = self._prompt(query)
        alone = id(query) if len(query.excluded) > EXCLUDED else None
        return self._width(len(prompt)), alone

    def warm_up(self, served: Served) -> None:
        """Compiles all that any query may need.

        Raises:
            ValueError: on this processor a user's numbers depend on the place in a tile.
        """
        nothing = np.zeros(0, np.int32)
        history = np.flatnonzero(served.catalogue.listed)[:3].astype(np.int32)
        allowed = np.ones(served.catalogue.num_items, bool)
        queries = [Query(history, nothing, served.rankings[0], explain=True)] * self.tile
        for width in self._prompts.widths:
            found = [
                self.start(served, some, allowed, width=width)() for some in (queries, queries[:1])
            ]
            for other in (*found[0], *found[1]):
                same = np.array_equal(other.item, found[0][0].item) and np.array_equal(
                    other.score, found[0][0].score
                )
                if not same:
                    raise ValueError(
                        f"tile={self.tile}: on this processor an answer depends on its place in a "
                        "tile; serve with tiles of one"
                    )
        for name in served.rankings[1:]:
            query = dataclasses.replace(queries[0], rank_by=name, explain=False)
            self.start(served, [query], allowed)()
        self.cache.clear()

    def start(
        self,
        served: Served,
        queries: Sequence[Query],
        allowed: Bool[np.ndarray, " N"],
        *,
        width: int | None = None,
    ) -> Callable[..., list[Found]]:
        """Starts a tile and returns what waits for its answers.

        It takes, if one likes, what is called once the search has ended and the host's part begins.

        Args:
            served: what answers.
            queries: a tile of them at most, of one `key`.
            allowed: items that may be recommended at all.
            width: of the prompts; None takes what the queries' key says.

        Raises:
            ValueError: too many queries, or queries that cannot share a tile.
        """
        if not 0 < len(queries) <= self.tile:
            raise ValueError(f"{len(queries)} queries; a tile has 1 to {self.tile}")
        prompts = [self._prompt(query) for query in queries]
        widths = {self._width(len(prompt)) for prompt in prompts}
        if width is None and len(widths) > 1:
            raise ValueError(f"prompts of widths {sorted(widths)} cannot share a tile")
        width = width or widths.pop()
        # A catalogue may have given an item another SID: a reading is of both versions.
        versions = (served.model_version, served.catalogue.number)
        reading, keep = self._reader.read(served.weights, versions, prompts, width)
        filters = self._filters(served, queries, allowed)
        trie, needs = served.catalogue.trie, {query.rank_by for query in queries}
        explained = any(query.explain for query in queries)
        programs, weights = self.programs, served.weights
        result = programs.search(weights, reading, trie, filters)
        items = levels = None
        if served.ranker.item_ranker is not None and (needs & {SYSTEM, ITEM_HEAD} or explained):
            items = programs.rank(weights, reading, trie, filters)
        if explained:
            levels = programs.trace(weights, reading, trie, filters)

        def wait(searched: Callable[[], None] = _nothing) -> list[Found]:
            count = len(queries)
            found = _users(RankedUsers, result, count)
            head = None if items is None else _users(RankedItems, items, count)
            levels_np = None if levels is None else jax.tree.map(np.asarray, levels)
            searched()
            keep()
            return self._answers(served, queries, allowed, found, head, levels_np)

        return wait

    def _prompt(self, query: Query) -> Int[np.ndarray, " n"]:
        return np.asarray(self._prompts(query.history), np.int32)

    def _width(self, length: int) -> int:
        return next(width for width in self._prompts.widths if width >= length)

    def _filters(
        self, served: Served, queries: Sequence[Query], allowed: Bool[np.ndarray, " N"]
    ) -> Filters:
        excluded = np.full((self.tile, EXCLUDED), -1, np.int32)
        room = np.zeros(served.catalogue.trie.capacities.items, bool)
        room[: len(allowed)] = allowed
        if len(queries) == 1 and len(queries[0].excluded) > EXCLUDED:
            room[queries[0].excluded] = False
        else:
            for place, query in enumerate(queries):
                excluded[place, : len(query.excluded)] = query.excluded
        return Filters(jnp.asarray(excluded), jnp.asarray(room))

    def _answers(
        self,
        served: Served,
        queries: Sequence[Query],
        allowed: Bool[np.ndarray, " N"],
        found: RankedUsers,
        head: RankedItems | None,
        levels: Any,
    ) -> list[Found]:
        ranker = served.ranker
        rankings: Rankings | None = None
        lists: dict[str, RankedLists] = {}
        fused = [
            place for place, query in enumerate(queries) if query.rank_by == SYSTEM or query.explain
        ]
        if fused:
            rankings = ranker.beside(
                _some(found, fused),
                None if head is None else _some(head, fused),
                [queries[place].history for place in fused],
                exclude_seen=False,  # What is seen stands among what is excluded.
                allowed=allowed,
                excluded=[queries[place].excluded for place in fused],
            )
            if served.system is not None:
                lists[SYSTEM] = served.system.rank(
                    rankings.lists, rankings.histories, ranker.facts, self.programs.num_beams
                )
        if any(query.rank_by == MODEL_HEAD for query in queries):
            lists[MODEL_HEAD] = rescored(found, ranker.searched(found), len(ranker.train_count))
        answers = []
        for place, query in enumerate(queries):
            if query.rank_by == SYSTEM:
                item, score = _logged(lists[SYSTEM], fused.index(place))
            elif query.rank_by == MODEL_HEAD:
                item, score = _logged(lists[MODEL_HEAD], place)
            elif query.rank_by == ITEM_HEAD and head is not None:
                item, score = head.item[place], head.item_score[place]
            else:
                item, score = found.item[place], found.item_score[place]
            explanation = None
            if query.explain and rankings is not None:
                explanation = _explanation(rankings, fused.index(place), levels, place)
            listed = item >= 0
            answers.append(Found(item[listed], score[listed], explanation))
        return answers


def answered(
    recommender: Recommender,
    served: Served,
    queries: Sequence[Query],
    allowed: Bool[np.ndarray, " N"],
) -> list[Found]:
    """Returns the answers to queries, however many there are: what a server says of each.

    Args:
        recommender: what answers tiles.
        served: what answers.
        queries: in any order.
        allowed: items that may be recommended at all.
    """
    places: dict[Any, list[int]] = collections.defaultdict(list)
    for place, query in enumerate(queries):
        places[recommender.key(query)].append(place)
    answers: dict[int, Found] = {}
    for some in places.values():
        for start in range(0, len(some), recommender.tile):
            tile = some[start : start + recommender.tile]
            found = recommender.start(served, [queries[place] for place in tile], allowed)()
            answers.update(zip(tile, found, strict=True))
    return [answers[place] for place in range(len(queries))]


def _nothing() -> None:
    """Does nothing."""


def _users[Ranked: (RankedUsers, RankedItems)](
    kind: type[Ranked], result: Any, count: int
) -> Ranked:
    """Returns the first users of what a program returned."""
    names = [field.name for field in dataclasses.fields(kind) if field.name != "row"]
    arrays = {name: getattr(result, name) for name in names}
    taken = {
        name: None if array is None else np.asarray(array)[:count] for name, array in arrays.items()
    }
    return kind(row=np.arange(count), **taken)


def _some[Ranked: (RankedUsers, RankedItems)](ranked: Ranked, places: Sequence[int]) -> Ranked:
    arrays = {field.name: getattr(ranked, field.name) for field in dataclasses.fields(ranked)}
    return type(ranked)(
        **{name: None if array is None else array[places] for name, array in arrays.items()}
    )


def _logged(lists: RankedLists, place: int) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(divide="ignore"):
        return lists.item[place], np.log(lists.probability[place])


def _explanation(rankings: Rankings, row: int, levels: Any, place: int) -> Explanation:
    sources: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    lists: Mapping[str, RankedLists] = rankings.lists
    for name, source in lists.items():
        listed = np.flatnonzero(source.item[row] >= 0)
        order = listed[np.argsort(-source.probability[row][listed], kind="stable")]
        sources[name] = (source.item[row][order], source.probability[row][order])
    return Explanation(
        sources,
        tuple(
            Level(level.sid[place], level.score[place], level.children[place], level.allowed[place])
            for level in levels
        ),
    )
