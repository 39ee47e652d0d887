"""What is looked up without a search: items, what is like them, and what is served."""

from __future__ import annotations

import numpy as np

from minirec.serving.catalogue import Catalogue, Stock
from minirec.serving.messages import (
    SimilarItem,
    Status,
)
from minirec.serving.recommender import Served
from minirec.serving.refusals import BadRequestError
from minirec.serving.replies import HttpError
from minirec.serving.service import Service

SIMILAR = ("text", "follows", "table", "sid")
"""What likeness is measured by."""


def item_of(catalogue: Catalogue, raw: str) -> int:
    """Returns the number of an item.

    Raises:
        HttpError: the catalogue has no such item.
    """
    item = catalogue.item_of.get(raw)
    if item is None:
        raise HttpError("not_found", f"the catalogue has no item {raw!r}", "item_id")
    return item


def catalogue_version(served: Served, stock: Stock) -> str:
    """Returns the catalogue's number, and how many changes of stock there were."""
    return f"{served.catalogue.number}.{stock.number}"


def similar_items(served: Served, stock: Stock, item: int, by: str, num: int) -> list[SimilarItem]:
    """Returns the items that are most like another; those that are listed and in stock alone."""
    if by not in SIMILAR:
        raise BadRequestError("by", f"{by!r}; must be one of {', '.join(SIMILAR)}")
    catalogue, ranker = served.catalogue, served.ranker
    items, scores = np.zeros(0, np.int64), np.zeros(0)
    is_known = item < len(ranker.train_count)
    if by == "text" and ranker.neighbours is not None and is_known:
        start, stop = ranker.neighbours.offsets[item : item + 2]
        items, scores = ranker.neighbours.item[start:stop], ranker.neighbours.cosine[start:stop]
    elif by == "follows" and is_known:
        rows = ranker.transition.transitions
        start, stop = rows.indptr[item : item + 2]
        items, scores = rows.indices[start:stop], rows.data[start:stop]
    elif by == "table" and is_known and (vectors := served.item_vectors) is not None:
        items, scores = np.arange(len(vectors)), vectors @ vectors[item]
    elif by == "sid":  # How many codes are the same, from the first one on.
        same = np.cumprod(catalogue.codes == catalogue.codes[item], axis=1).sum(axis=1)
        items = np.flatnonzero(same)
        scores = same[items] / catalogue.codes.shape[1]
    in_stock, _ = stock.now()
    wanted = (catalogue.listed & in_stock)[items] & (items != item)
    items, scores = items[wanted], np.asarray(scores, np.float64)[wanted]
    best = np.lexsort((items, -scores))[:num]
    return [
        SimilarItem(
            catalogue.raw_item_ids[int(items[place])],
            catalogue.titles[int(items[place])],
            round(float(scores[place]), 6),
            rank,
        )
        for rank, place in enumerate(best)
    ]


def status_of(service: Service) -> Status:
    """Returns what a service serves, and how it does."""
    engine = service.engine
    (served, stock), cache = engine.now(), engine.recommender.cache
    catalogue = served.catalogue
    return Status(
        ready=not engine.is_draining,
        draining=engine.is_draining,
        model_version=served.model_version,
        catalogue_version=catalogue_version(served, stock),
        num_items=catalogue.num_items,
        num_listed=int(catalogue.listed.sum()),
        rank_by=list(served.rankings),
        num_beams=engine.recommender.programs.num_beams,
        tile=engine.recommender.tile,
        columns=list(catalogue.columns.names),
        exclude_seen=engine.exclude_seen,
        waiting=engine.num_waiting,
        tiles_in_flight=engine.num_flying,
        tile_seconds=round(engine.admission.latency_s, 6),
        compilations=engine.recommender.programs.num_traces,
        cache={
            "entries": len(cache),
            "bytes": cache.num_bytes,
            "hits": cache.hits,
            "grown": cache.grown,
            "misses": cache.misses,
        },
    )
