"""The pipeline of a served feed: which components, in which order, with which numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from launch.wiring.feed_shop import action_of
from launch.wiring.program import UsageError
from minirec.recommend import ItemTransition
from minirec.recommend.feed import filters, hydrators, query_hydrators, scorers, sources
from minirec.recommend.feed.judging import ActionProbabilities, ActionRanker, RetrievalOrder
from minirec.recommend.feed.live import LiveEvents
from minirec.recommend.feed.query_hydrators import Served
from minirec.recommend.feed.selectors import FirstFew, TopK
from minirec.recommend.feed.shop import Shop
from minirec.recommend.pipeline import Pipeline, Scorer, SideEffect, Source
from minirec.serving.feed.service import Towers
from pipelines.prepared import Prepared

_DAY_S = 86_400.0
_SPARE = 2  # Candidates selected for each that is shown: filters behind may leave some out.


def pipeline_of(
    config: ConfigDict,
    prepared: Prepared,
    shop: Shop,
    live: LiveEvents,
    ranker: ActionRanker,
    towers: Towers,
    weights: dict[str, float],
    served: Served,
    side_effects: Sequence[SideEffect],
) -> Pipeline:
    """Returns the pipeline that `config.feed` describes.

    Args:
        config: the experiment.
        prepared: its records.
        shop: the items.
        live: what is known of people.
        ranker: the ranker.
        towers: the towers.
        weights: of the actions.
        served: what was shown before.
        side_effects: what follows an answer.

    Raises:
        UsageError: a field of `config.feed` is impossible.
    """
    feed = config.feed
    view, purchase = (action_of(config, prepared, name) for name in ("view", "purchase"))
    try:
        query = [
            query_hydrators.History(live, config.loader.max_items),
            query_hydrators.Followed(live),
            query_hydrators.BlockedBrands(live),
            query_hydrators.ServedBefore(served),
        ]
        dependent = [] if purchase is None else [query_hydrators.Bought(purchase)]
        named = _sources(feed.sources, prepared, live, towers)
        known = [
            hydrators.ItemData(shop),
            hydrators.Stock(live),
            hydrators.Ages(live, shop, new_s=feed.new_days * _DAY_S),
            hydrators.Network(shop),
            hydrators.Counts(live, view),
            hydrators.Vectors(towers),
            hydrators.Fused(),
        ]
        again_s = feed.repurchase_days * _DAY_S or np.inf
        left_out = [
            filters.Duplicates(),
            filters.OutOfStock(),
            filters.PreviouslySeen(),
            filters.PreviouslyServed(),
            filters.AlreadyBought({}, again_s),
            filters.Blocked("brand", must_be_known=True),
            filters.Keywords(),
            filters.PriceRange(),
        ]
        judges = [
            ActionProbabilities(ranker, budget_s=feed.ranker_budget_ms / 1e3),
            scorers.WeightedScorer(weights),
            RetrievalOrder(),
            *_factors(feed),
        ]
        checked = [hydrators.Stock(live, "visible")]
        for component in (*query, *dependent, *named, *known, *checked):
            component.budget_s = feed.budget_ms / 1e3
        checked[0].name = "StockNow"
        return Pipeline(
            query_hydrators=query,
            dependent_query_hydrators=dependent,
            sources=named,
            hydrators=known,
            filters=left_out,
            scorers=judges,
            selector=TopK(_SPARE * feed.most_shown),
            post_selection_hydrators=checked,
            post_selection_filters=[filters.Visibility()],
            finalizers=[FirstFew()],
            side_effects=side_effects,
            num_shown=feed.most_shown,
            num_threads=16,
        )
    except ValueError as error:
        raise UsageError(f"config.feed: {error}") from error


def _factors(feed: ConfigDict) -> list[Scorer]:
    return [
        scorers.OutOfNetwork(feed.out_of_network),
        scorers.Freshness(feed.freshness_half_life_days * _DAY_S, feed.freshness_floor),
        scorers.BrandDiversity(feed.diversity_decay, feed.diversity_floor),
        scorers.DppRerank(feed.num_shown, feed.dpp_theta),
        scorers.ColdStart(place=feed.cold_start_place, cap=feed.cold_start_cap),
    ]


def _sources(
    most: ConfigDict, prepared: Prepared, live: LiveEvents, towers: Towers
) -> list[Source]:
    transition = ItemTransition(*prepared.training_items(), prepared.num_items)
    made: dict[str, Callable[[int], Source]] = {
        "two_tower": lambda k: sources.TwoTower(towers, k),
        "transition": lambda k: sources.TransitionCount(transition, k),
        "recency": sources.Recency,
        "in_network": lambda k: sources.InNetwork(live, k),
        "popular": lambda k: sources.PopularNow(live, k),
        "new_items": lambda k: sources.NewItems(live, k),
        "bestsellers": lambda k: sources.Bestsellers(transition.popularity.order, k),
    }
    return [make(most[name]) for name, make in made.items() if most[name]]
