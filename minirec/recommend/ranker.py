"""The sources of a system, asked together: a search, an item table, the counts and the text."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from flax import nnx
from jaxtyping import Bool, Float64, Int

from kernels.trie import Trie
from minirec.decoding.ranking import RankedItems, RankedUsers, rank_users, rank_users_items
from minirec.decoding.searcher import BeamSearcher, ItemRanker
from minirec.recommend.baselines import ItemTransition
from minirec.recommend.baselines.alike import rank_alike
from minirec.recommend.baselines.lists import Histories
from minirec.recommend.content import Neighbours
from minirec.recommend.gated import Facts
from minirec.recommend.ranked_lists import (
    RankedLists,
    shared_probability,
    sid_shares,
    with_unknown,
)
from minirec.recommend.sources import CONTENT, ITEM_HEAD, ITEM_TRANSITION, MODEL

_ALIKE = 100  # items a user


@dataclasses.dataclass(frozen=True)
class Rankings:
    """What each source recommends to the same users.

    Attributes:
        ranked: the beams.
        lists: by source, the items and how probable each is.
        histories: the items that the users had before, of those that the counts know.
    """

    ranked: RankedUsers
    lists: Mapping[str, RankedLists]
    histories: Sequence[Int[np.ndarray, " H"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Ranker:
    """A model and the counts beside it, asked for many users.

    Attributes:
        model: what is searched with.
        trie: the catalogue.
        searcher: the search.
        item_tokens: `[N, L]`, the tokens of each item. Items past those that the count knows came
            after training.
        train_count: training interactions of each item that the count knows.
        transition: the transition count.
        length: items of a list, beside the search's, which are as many as it has beams. Longer
            than those: a list has as many distinct SIDs then where items share theirs.
        exclude_seen: whether items of a user's own history are left out.
        item_ranker: ranks by the model's item table; None where it has none.
        neighbours: which items are like which in text; None where nobody has looked.
    """

    model: nnx.Module
    trie: Trie
    searcher: BeamSearcher
    item_tokens: Int[np.ndarray, "N L"]
    train_count: Int[np.ndarray, " known"]
    transition: ItemTransition
    length: int
    exclude_seen: bool
    item_ranker: ItemRanker | None = None
    neighbours: Neighbours | None = None

    @property
    def facts(self) -> Facts | None:
        """What a gate must know of the items; None where nobody has looked at their text."""
        return None if self.neighbours is None else Facts(self.transition, self.neighbours)

    def rank(
        self,
        batches: Iterable[Mapping[str, np.ndarray]],
        histories: Callable[[Int[np.ndarray, " n"]], Sequence[Int[np.ndarray, " H"]]],
        *,
        allowed: Bool[np.ndarray, " N"] | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> Rankings:
        """Returns every source's lists for the users of some batches.

        Args:
            batches: prompts; gone through once a source that needs them.
            histories: the whole histories of the users that batches call `row`.
            allowed: items that may be recommended at all; None means every item.
            on_batch: called after each batch of the search with its number of users.
        """
        filters = {"exclude_seen": self.exclude_seen, "allowed": allowed}
        ranked = rank_users(
            self.model, batches, self.searcher, self.trie, on_batch=on_batch, **filters
        )
        head = None
        if self.item_ranker is not None:
            head = rank_users_items(self.model, batches, self.item_ranker, self.trie, **filters)
        return self.beside(ranked, head, histories(ranked.row), **filters)

    def beside(
        self,
        ranked: RankedUsers,
        head: RankedItems | None,
        histories: Sequence[Int[np.ndarray, " H"]],
        *,
        exclude_seen: bool,
        allowed: Bool[np.ndarray, " N"] | None = None,
        excluded: Histories | None = None,
    ) -> Rankings:
        """Returns every source's lists beside what the model has found already.

        A user's lists depend on that user alone, to the bit.

        Args:
            ranked: what the search has found.
            head: what the model's item table has; None where it has none.
            histories: the same users' whole histories.
            exclude_seen: whether items of a user's own history are left out.
            allowed: items that may be recommended at all; None means every item.
            excluded: item ids that each user shall not get beside those.
        """
        num_items, num_known = len(self.item_tokens), len(self.train_count)
        filters = {"exclude_seen": exclude_seen, "allowed": allowed, "excluded": excluded}
        lists = {MODEL: self.searched(ranked)}
        if head is not None:
            lists[ITEM_HEAD] = RankedLists(head.item, np.exp(head.item_score.astype(np.float64)))
        known = [history[history < num_known] for history in histories]
        # What popularity would fill a list up with is not the count's word.
        lists[ITEM_TRANSITION] = self.transition.rank_followers(known, self.length, **filters)
        if self.neighbours is not None:
            lists[CONTENT] = rank_alike(known, self.neighbours, _ALIKE, **filters)
        if num_items > num_known:  # Appended: the search alone knows these.
            for name in lists.keys() - {MODEL, CONTENT}:
                lists[name] = with_unknown(lists[name], lists[MODEL], num_known)
        return Rankings(ranked, lists, known)

    def searched(self, ranked: RankedUsers) -> RankedLists:
        """Returns what a search has found, with the probabilities that it gives the items."""
        found = RankedLists(ranked.item, np.exp(ranked.item_score.astype(np.float64)))
        return shared_probability(found, self._share)

    @functools.cached_property
    def _share(self) -> Float64[np.ndarray, " N"]:
        counts = np.zeros(len(self.item_tokens))
        counts[: len(self.train_count)] = self.train_count
        return sid_shares(self.item_tokens, counts)
