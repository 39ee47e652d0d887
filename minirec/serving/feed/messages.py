"""What a feed's HTTP speaks: checked as it is read (msgspec)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from minirec.serving.messages import ItemId

MOST_EVENTS = 1000

UserId = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Finite = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
SeenIds = Annotated[list[ItemId], msgspec.Meta(max_length=10_000)]


MOST_SHOWN = 1000
"""Items that a request may ask for, whatever a config says."""


class FeedRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Whose feed, and what they want of it."""

    user: UserId
    num: Annotated[int, msgspec.Meta(ge=1, le=MOST_SHOWN)] | None = None
    weights: dict[str, Finite] | None = None
    seen_items: SeenIds = []
    muted_words: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    price_from: float | None = None
    price_to: float | None = None
    leave_out_served: bool = False
    diversify: bool = True
    explain: bool = False
    deadline_ms: Annotated[float, msgspec.Meta(gt=0, le=60_000)] | None = None


class Why(msgspec.Struct):
    """Why an item stands where it stands.

    Attributes:
        sources: who named it.
        probabilities: of each action.
        parts: of the weighted sum.
        factors: what the sum was multiplied by afterwards.
        marks: "lifted" (a new item's chance), "diverse" (chosen for being unlike the others),
            "new", "in_network".
    """

    sources: list[str]
    probabilities: dict[str, float]
    parts: dict[str, float]
    factors: dict[str, float]
    marks: list[str]


class FeedItem(msgspec.Struct):
    """An item of a feed."""

    item_id: str
    title: str
    brand: str
    category: str
    price: float | None
    score: float
    rank: int
    why: Why | msgspec.UnsetType = msgspec.UNSET


class StepTold(msgspec.Struct):
    """What a component did."""

    stage: str
    component: str
    ms: float
    given: int
    left: int
    outcome: str
    error: str


class FeedAnswer(msgspec.Struct):
    """A feed, best first; `removed` has by filter the items that it left out."""

    items: list[FeedItem]
    ranked_by: str
    degraded: list[str]
    request_id: str
    milliseconds: float
    steps: list[StepTold] | msgspec.UnsetType = msgspec.UNSET
    removed: dict[str, list[str]] | msgspec.UnsetType = msgspec.UNSET


class EventsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Events; of each what it lacks of id, time, brand and category is filled in."""

    events: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=MOST_EVENTS)]


class MalformedEvent(msgspec.Struct):
    """An event that is none."""

    place: int
    reason: str


class EventsAnswer(msgspec.Struct):
    """What became of events."""

    accepted: int
    malformed: list[MalformedEvent]


class PastEvent(msgspec.Struct):
    """An event of a user."""

    item_id: str
    title: str
    action: str
    time_ms: int


class HistoryAnswer(msgspec.Struct):
    """A user's events, newest first."""

    user: str
    events: list[PastEvent]
    followed: list[str]
    blocked: list[str]


class FoundItem(msgspec.Struct):
    """An item of the shop."""

    item_id: str
    title: str
    brand: str
    category: str


class FoundItems(msgspec.Struct):
    """Items found by words of their titles."""

    items: list[FoundItem]


class FeedStatus(msgspec.Struct):
    """What is served, and how."""

    ready: bool
    draining: bool
    role: str
    version: str
    actions: list[str]
    weights: dict[str, float]
    num_shown: int
    most_shown: int
    users: list[str]
    components: dict[str, list[str]]
    waiting: int
