"""How a feed is served: blocks of the family `feed` that shape no step's output."""

from __future__ import annotations

from ml_collections import ConfigDict


def feed_serving() -> ConfigDict:
    """Returns what a served feed shows, from where, and by which weights."""
    return ConfigDict(
        {
            # Attributes of an item as the records spell them, "" for none, and a column.
            "brand": "brand",
            "category": "category",
            "price": "",
            # Event types: one that is no more than a look, and one after which an item is the
            # user's; "": the log has none such.
            "view": "view",
            "purchase": "transaction",
            "weights": "",  # of actions, "view=1,addtocart=3"; "": 1 each
            "num_shown": 20,
            "most_shown": 100,  # that a request may ask for
            # Candidates a source names; 0: it is not asked.
            "sources": {
                "two_tower": 200,
                "transition": 100,
                "recency": 30,
                "in_network": 50,
                "popular": 50,
                "new_items": 30,
                "bestsellers": 30,
            },
            "repurchase_days": 0.0,  # after which a bought item is shown again; 0: never
            "out_of_network": 0.75,
            "diversity_decay": 0.5,
            "diversity_floor": 0.25,
            "freshness_half_life_days": 14.0,
            "freshness_floor": 0.8,
            "dpp_theta": 0.65,
            "cold_start_place": 15,
            "cold_start_cap": 1,
            "new_days": 2.0,  # for which an item is new once it was listed
            "popular_half_life_hours": 6.0,
            "budget_ms": 400.0,  # of each source and hydrator; what is late is left out
            "ranker_budget_ms": 600.0,
            "store": {
                "retention_days": 2.0,
                "max_events": 1 << 20,
                "max_per_user": 128,
                "max_per_list": 100,
                "snapshot_every": 100_000,
            },
        }
    )
