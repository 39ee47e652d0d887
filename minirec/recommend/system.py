"""All sources together: a pool with one weighting for everybody, or a gate that knows more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from minirec.files.schema import NUMBER, check
from minirec.recommend.fusion import fuse
from minirec.recommend.fusion_weights import FusionWeights
from minirec.recommend.gated import Candidates, Facts, Gate, candidates
from minirec.recommend.ranked_lists import RankedLists
from minirec.recommend.sources import CONTENT

GATED = 100
"""Candidates a user that a gate looks at."""

_GATE, _HELD_OUT, _KIND = "gate", "held_out", "kind"
_BLOCK = 2048  # users
_GATE_SHAPE = {_GATE: dict, _HELD_OUT: {str: {str: NUMBER}}, _KIND: str}


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """How a run's sources are fused.

    Attributes:
        pool: the weights of a linear pool, which are chosen at any rate.
        gate: what ranks the candidates in the pool's place; None where it would not do better.
        kind: of the gate: the penalty of its weights, and whether it has a hidden layer.
        held_out: by kind of gate that was tried, its metrics on users that it was not fitted on;
            empty where there is no gate.
    """

    pool: FusionWeights
    gate: Gate | None = None
    kind: str = ""
    held_out: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    def rank(
        self,
        lists: Mapping[str, RankedLists],
        histories: Sequence[Int[np.ndarray, " H"]],
        facts: Facts | None,
        k: int,
    ) -> RankedLists:
        """Returns the `k` best items a user, best first, with their probabilities.

        A gate ranks 100 candidates; behind them come the pool's next, with probability 0.

        Args:
            lists: by name of the source.
            histories: item ids a user, oldest first, those alone that `facts` knows.
            facts: of the items; needed by a gate alone.
            k: length of the lists.

        Raises:
            ValueError: as `fuse` does; a gate without facts, or with other sources.
        """
        if self.gate is None:
            return fuse(pooled(lists), self.pool.weights, k)
        if facts is None:
            raise ValueError("facts: None; the system's gate needs what is known of the items")
        ranked = [
            self.gate.rank(found, min(k, GATED)) for found in _blocks(lists, histories, facts)
        ]
        first = RankedLists(
            np.concatenate([block.item for block in ranked]),
            np.concatenate([block.probability for block in ranked]),
        )
        if k <= GATED:
            return first
        return _continued(first, fuse(pooled(lists), self.pool.weights, k))

    def to_json(self) -> dict[str, Any]:
        """Returns the system as a JSON object: the pool's fields, and the gate's or null."""
        gate = None
        if self.gate is not None:
            gate = {
                _GATE: self.gate.to_json(),
                _KIND: self.kind,
                _HELD_OUT: {name: dict(metrics) for name, metrics in self.held_out.items()},
            }
        return self.pool.to_json() | {_GATE: gate}

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Self:
        """Returns the system of `to_json`'s object.

        Args:
            value: the JSON value.
            where: what the value comes from, for errors.

        Raises:
            ValueError: a field that is missing, unknown or not as described.
        """
        check(value, {_GATE: (dict, None)}, where)
        pool = {name: field for name, field in value.items() if name != _GATE}
        weights, gate = FusionWeights.from_json(pool, where=where), value[_GATE]
        if gate is None:
            return cls(weights)
        check(gate, _GATE_SHAPE, f"{where}: {_GATE}", exact=True)
        fitted = Gate.from_json(gate[_GATE], where=f"{where}: {_GATE}")
        return cls(weights, fitted, gate[_KIND], gate[_HELD_OUT])


def pooled(lists: Mapping[str, RankedLists]) -> dict[str, RankedLists]:
    """Returns the sources of the pool: likeness in text is no probability of a purchase."""
    return {name: source for name, source in lists.items() if name != CONTENT}


def gated(
    lists: Mapping[str, RankedLists],
    histories: Sequence[Int[np.ndarray, " H"]],
    facts: Facts,
) -> Candidates:
    """Returns the candidates that a gate looks at; see `candidates`."""
    blocks = list(_blocks(lists, histories, facts))
    first = np.cumsum([0, *(block.num_users for block in blocks)])
    return dataclasses.replace(
        blocks[0],
        user=np.concatenate([block.user + n for block, n in zip(blocks, first, strict=False)]),
        item=np.concatenate([block.item for block in blocks]),
        features=np.concatenate([block.features for block in blocks]),
        num_users=int(first[-1]),
    )


def _blocks(
    lists: Mapping[str, RankedLists], histories: Sequence[Int[np.ndarray, " H"]], facts: Facts
) -> Iterator[Candidates]:
    """Yields the candidates of some users at a time: what is computed on the way is large."""
    for start in range(0, max(1, len(histories)), _BLOCK):
        rows = slice(start, start + _BLOCK)
        some = {
            name: RankedLists(source.item[rows], source.probability[rows])
            for name, source in lists.items()
        }
        yield candidates(some, histories[rows], facts, GATED)


def _continued(first: RankedLists, rest: RankedLists) -> RankedLists:
    """Returns lists as long as `rest`, whose items follow where they are not in `first`."""
    width = 1 + max(int(first.item.max(initial=0)), int(rest.item.max(initial=0)))
    row = np.arange(len(rest.item))[:, None] * width
    taken = np.isin(row + rest.item, (row + first.item)[first.item >= 0])
    item = np.concatenate([first.item, np.where(taken, -1, rest.item)], axis=1)
    probability = np.concatenate([first.probability, np.zeros(rest.item.shape)], axis=1)
    order = np.argsort(item < 0, axis=1, kind="stable")[:, : rest.item.shape[1]]
    return RankedLists(
        np.take_along_axis(item, order, axis=1).astype(np.int32),
        np.take_along_axis(probability, order, axis=1),
    )
