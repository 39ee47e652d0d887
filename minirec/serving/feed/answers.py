"""A feed as its clients read it, with the explanation of each place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from minirec.recommend.feed.shop import Shop
from minirec.recommend.pipeline import Feed
from minirec.serving.feed.messages import FeedAnswer, FeedItem, StepTold, Why
from minirec.serving.feed.service import RANKER, RETRIEVAL

_FACTORS = ("out_of_network", "diversity", "freshness")
_MARKS = {"lifted": "lifted", "dpp": "diverse", "is_new": "new", "in_network": "in_network"}
_MOST_REMOVED = 20  # Items a filter that are told of.


def ranked_by(feed: Feed) -> str:
    """Returns what ranked a feed: the ranker, or the sources' order where there was none."""
    shown = feed.shown
    return RETRIEVAL if "by_retrieval" in shown and shown["by_retrieval"].any() else RANKER


def degraded(feed: Feed) -> list[str]:
    """Returns the components that failed or were late."""
    failed = (step.component for step in feed.steps if step.outcome in ("failed", "late"))
    return list(dict.fromkeys(failed))


def feed_answer(
    feed: Feed,
    shop: Shop,
    actions: Sequence[str],
    request_id: str,
    seconds: float,
    *,
    explain: bool,
) -> FeedAnswer:
    """Returns what a client gets.

    Args:
        feed: the answer.
        shop: the items.
        actions: names of the event types.
        request_id: names the request.
        seconds: that it took.
        explain: whether each place is explained.
    """
    answer = FeedAnswer(
        items=[_item(feed, place, shop, actions, explain) for place in range(len(feed.shown))],
        ranked_by=ranked_by(feed),
        degraded=degraded(feed),
        request_id=request_id,
        milliseconds=round(1e3 * seconds, 2),
    )
    if explain:
        answer.steps = [
            StepTold(
                step.stage, step.component, round(1e3 * step.seconds, 3), step.given, step.left,
                step.outcome, step.error,
            )
            for step in feed.steps
        ]  # fmt: skip
        removed: dict[str, list[str]] = {}
        for item, name in feed.removed.items():
            of_filter = removed.setdefault(name, [])
            if len(of_filter) < _MOST_REMOVED:
                of_filter.append(shop.raw_item_ids[item])
        answer.removed = removed
    return answer


def why(feed: Feed, place: int, actions: Sequence[str]) -> Why:
    """Returns why an item stands at its place."""
    shown = feed.shown

    def numbers(names: dict[str, str]) -> dict[str, float]:
        found = {
            name: float(shown[column][place]) for name, column in names.items() if column in shown
        }
        return {name: round(value, 6) for name, value in found.items() if not math.isnan(value)}

    return Why(
        sources=feed.sources_of(place),
        probabilities=numbers({name: f"p_{name}" for name in actions}),
        parts=numbers({name: f"part_{name}" for name in actions}),
        factors=numbers({name: name for name in _FACTORS}),
        marks=[
            said
            for column, said in _MARKS.items()
            if column in shown and bool(np.asarray(shown[column])[place])
        ],
    )


def _item(feed: Feed, place: int, shop: Shop, actions: Sequence[str], explain: bool) -> FeedItem:
    item = int(feed.shown.item[place])
    price, brand, category = (
        float(shop.price[item]),
        int(shop.brand[item]),
        int(shop.category[item]),
    )
    told = FeedItem(
        item_id=shop.raw_item_ids[item],
        title=shop.titles[item],
        brand=shop.brands[brand] if brand >= 0 else "",
        category=shop.categories[category] if category >= 0 else "",
        price=None if math.isnan(price) else price,
        score=float(feed.shown["score"][place]),
        rank=place,
    )
    if explain:
        told.why = why(feed, place, actions)
    return told
