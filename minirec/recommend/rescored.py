"""The items of a search, ranked by the same model's item table: M rows are read, and not N."""

from __future__ import annotations

import numpy as np

from minirec.decoding.ranking import RankedUsers
from minirec.recommend.ranked_lists import RankedLists, with_unknown


def rescored(ranked: RankedUsers, searched: RankedLists, num_known: int) -> RankedLists:
    """Returns the items that a search has found, in the order of the model's item table.

    An item's probability is its share among those that the search has found. Items that came after
    training, which the table lacks, keep the search's.

    Args:
        ranked: what the search found, with `table_score`.
        searched: the same items, with the probabilities that the search gives them.
        num_known: items that the table has.

    Raises:
        ValueError: the model has no item table, or one that gives no numbers.
    """
    if ranked.table_score is None:
        raise ValueError("ranked.table_score: None; the model has no item table to rank by")
    score = ranked.table_score.astype(np.float64)
    if np.isnan(score).any():
        row = int(ranked.row[np.isnan(score).any(axis=1).argmax()])
        raise ValueError(f"ranked.table_score: NaN for user {row}: the model's weights are damaged")
    in_table = np.isfinite(score)
    best = np.max(score, axis=1, keepdims=True, initial=-np.inf)
    share = np.where(in_table, np.exp(score - np.where(np.isfinite(best), best, 0.0)), 0.0)
    share /= np.maximum(share.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    item = np.where(in_table, ranked.item, -1).astype(np.int32)
    lists = with_unknown(RankedLists(item, share), searched, num_known)
    logit = np.concatenate([score, np.full(searched.item.shape, -np.inf)], axis=1)
    key = np.where(lists.item >= 0, lists.probability, -1.0)
    # Logits far apart leave equal shares, of 0.
    order = np.lexsort((-logit, -key), axis=1)[:, : ranked.item.shape[1]]
    return RankedLists(
        np.take_along_axis(lists.item, order, axis=1),
        np.take_along_axis(lists.probability, order, axis=1),
    )
