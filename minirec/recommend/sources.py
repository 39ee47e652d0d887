"""The names of what recommends, in reports, flags and files."""

MODEL = "model"
"""The search over SIDs."""

ITEM_HEAD = "item_head"
"""The model's item table, where it has one."""

MODEL_HEAD = "model_head"
"""The items that the search finds, ranked by the model's item table."""

ITEM_TRANSITION = "item_transition"
"""The transition count."""

CONTENT = "content"
"""The likeness of the items' text, alone."""

TRANSITION_CONTENT = "transition_content"
"""The transition count and the likeness of the items' text."""

CO_OCCURRENCE = "co_occurrence"
"""The count of users who have two items, for data without an order."""

POPULARITY = "popularity"
"""The count of interactions."""

RECENCY = "recency"
"""The history itself, newest first."""

RECENCY_TRANSITION = "recency_transition"
"""The history itself and the transition count."""

RANKER = "ranker"
"""The ranker, over what the other sources of a feed name."""

TWO_TOWER = "two_tower"
"""The items whose vectors are nearest to the user's."""

FEED = "feed"
"""All of a feed together."""

REPEATING = frozenset({RECENCY, RECENCY_TRANSITION})
"""What has nothing to say where a user's own history may not be recommended."""

SYSTEM = "system"
"""All of them together."""
