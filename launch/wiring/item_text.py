"""What a run's records say of the items' text, as a model reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from minirec.models import ItemTerms
from minirec.recommend.content import Neighbours, content_rows
from minirec.training import TextNeighbours
from pipelines.prepared import Prepared


def item_terms(
    prepared: Prepared, raw_item_ids: Sequence[str], titles: Sequence[str], per_item: int
) -> ItemTerms | None:
    """Returns the terms of the records' items and of those that came later, by their titles.

    Args:
        prepared: the records.
        raw_item_ids: of all items, those of the records first.
        titles: what to show people of each: its title, or its raw id, which says nothing of it.
        per_item: terms an item at most.

    Returns:
        `None` where nothing is known of any item of the records.
    """
    num_items = prepared.num_items
    shown = zip(titles[num_items:], raw_item_ids[num_items:], strict=True)
    later = ["" if title == raw else title for title, raw in shown]
    items = prepared.items
    rows = content_rows(items["title"].to_list(), items["attributes"].to_list(), later)
    return ItemTerms.of(rows, num_items=num_items, per_item=per_item)


def padded(terms: ItemTerms, num_items: int, per_item: int) -> ItemTerms:
    """Returns terms with room for more items and terms an item, of which there are none yet."""
    room = ((0, num_items - terms.num_items), (0, per_item - terms.term.shape[1]))
    term, weight = (np.pad(np.asarray(array), room) for array in (terms.term, terms.weight))
    return ItemTerms(term, weight, terms.num_terms)


def terms_sha256(terms: ItemTerms, num_items: int) -> str:
    """Returns what tells the terms of the first items from others, in hexadecimal.

    Not by the weights, whose last bits are the machine's; which terms an item has says it all.
    """
    used = terms.weight[:num_items] > 0
    digest = hashlib.sha256(np.asarray(used.sum(axis=1), "<i4").tobytes())
    digest.update(np.asarray(terms.term[:num_items][used], "<i4").tobytes())
    return digest.hexdigest()


def text_neighbours(like: Neighbours | None) -> TextNeighbours | None:
    """Returns the nearest of the items that are like each, as training draws from them."""
    if like is None:
        return None
    return TextNeighbours.of(like.offsets, like.item, like.cosine)
