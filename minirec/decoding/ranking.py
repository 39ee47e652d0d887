"""Every user of a split through the constrained search: what metrics and reports are made from."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from kernels.trie import Trie
from minirec.decoding.searcher import BeamSearcher
from minirec.decoding.state import SearchResult

_IN_FLIGHT = 3


@dataclasses.dataclass(frozen=True)
class RankedUsers:
    """What the search returned for `n` users, best first, with `M` beams of `L` tokens.

    Attributes:
        row: the users' places in what was ranked, ascending.
        item: recommended items; -1 where the search found no more.
        item_score: their log-probabilities; -inf where there is no item.
        sid: the beams' tokens.
        score: the beams' log-probabilities.
        dead: beams that hold no item.
    """

    row: Int[np.ndarray, " n"]
    item: Int[np.ndarray, "n M"]
    item_score: Float[np.ndarray, "n M"]
    sid: Int[np.ndarray, "n M L"]
    score: Float[np.ndarray, "n M"]
    dead: Bool[np.ndarray, "n M"]


def rank_users(
    model: nnx.Module,
    batches: Iterable[Mapping[str, np.ndarray]],
    searcher: BeamSearcher,
    trie: Trie,
    *,
    exclude_seen: bool,
    allowed: Bool[np.ndarray, " N"] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> RankedUsers:
    """Returns the recommendations for every valid row of the batches, ordered by `row`.

    Args:
        model: what scores the SIDs.
        batches: prompts as `pipelines.batches.eval_batches` yields them: `tokens`, `lengths`,
            `history`, `row`, `valid`.
        searcher: the constrained search.
        trie: the catalogue.
        exclude_seen: whether items of a user's own history are left out, exactly.
        allowed: items that may be recommended at all; None means every item.
        on_batch: called after each batch with its number of valid rows.

    Raises:
        ValueError: there are no batches.
    """
    pieces: list[RankedUsers] = []
    # The next search starts before the last one is waited for: its batch is made meanwhile, and
    # what one of them leaves idle of a CPU the other takes.
    pending: collections.deque[tuple[Mapping[str, np.ndarray], Callable[[], SearchResult]]]
    pending = collections.deque()

    def finish_oldest() -> None:
        batch, wait = pending.popleft()
        result, valid = wait(), batch["valid"]
        pieces.append(
            RankedUsers(
                row=batch["row"][valid],
                item=np.asarray(result.item)[valid],
                item_score=np.asarray(result.item_score)[valid],
                sid=np.asarray(result.sid)[valid],
                score=np.asarray(result.score)[valid],
                dead=np.asarray(result.dead)[valid],
            )
        )
        if on_batch is not None:
            on_batch(int(valid.sum()))

    for batch in batches:
        excluded = batch["history"] if exclude_seen else None
        wait = searcher.start(
            model, batch["tokens"], batch["lengths"], trie, excluded=excluded, allowed=allowed
        )
        pending.append((batch, wait))
        if len(pending) == _IN_FLIGHT:
            finish_oldest()
    while pending:
        finish_oldest()
    if not pieces:
        raise ValueError("there is no user to rank: the split has no views")
    order = np.argsort(np.concatenate([piece.row for piece in pieces]), kind="stable")
    names = [field.name for field in dataclasses.fields(RankedUsers)]
    return RankedUsers(
        **{name: np.concatenate([getattr(p, name) for p in pieces])[order] for name in names}
    )
