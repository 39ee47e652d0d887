"""What goes over the wire as JSON: checked as it is read (msgspec), described in OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

MOST_HISTORY = 10_000
MOST_BATCH = 256

ItemId = Annotated[str, msgspec.Meta(max_length=512, description="What the log calls an item.")]
Ids = Annotated[list[ItemId], msgspec.Meta(max_length=MOST_HISTORY)]


class AllowRule(msgspec.Struct, forbid_unknown_fields=True):
    """What a column of an item must say."""

    column: str
    op: Literal["in", "not_in", "<", "<=", ">", ">="]
    value: str | list[str] | float


class RecommendRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A user's history, and what is wanted; `user` stands for a history of the log's."""

    history: Ids = []
    user: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    num: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    exclude: Ids = []
    allow: Annotated[list[AllowRule], msgspec.Meta(max_length=16)] = []
    rank_by: str | None = None
    exclude_seen: bool | None = None
    sold_out: bool = False
    unknown: Literal["error", "skip"] = "error"
    explain: bool = False
    deadline_ms: Annotated[float, msgspec.Meta(gt=0, le=60_000)] | None = None


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Several requests, answered each by itself."""

    requests: Annotated[list[RecommendRequest], msgspec.Meta(min_length=1, max_length=MOST_BATCH)]


class Item(msgspec.Struct):
    """An item of an answer. `score` is a log-probability, null where that is of 0."""

    item_id: str
    title: str
    sid: str
    score: float | None
    rank: int
    why: list[str] | msgspec.UnsetType = msgspec.UNSET
    sources: dict[str, float] | msgspec.UnsetType = msgspec.UNSET


class BeamLevel(msgspec.Struct):
    """The beams after a level of the search, best first."""

    sids: list[str]
    scores: list[float | None]
    children: list[int]
    allowed: list[int]


class RecommendAnswer(msgspec.Struct):
    """The items, best first, and what they were found with."""

    items: list[Item]
    rank_by: str
    model_version: str
    catalogue_version: str
    request_id: str
    unknown: list[str] | msgspec.UnsetType = msgspec.UNSET
    beams: list[BeamLevel] | msgspec.UnsetType = msgspec.UNSET
    milliseconds: dict[str, float] | msgspec.UnsetType = msgspec.UNSET


class ErrorBody(msgspec.Struct):
    """Why there is no answer."""

    reason: str
    message: str
    request_id: str
    field: str | msgspec.UnsetType = msgspec.UNSET


class ErrorAnswer(msgspec.Struct):
    """What every error answers."""

    error: ErrorBody


class BatchEntry(msgspec.Struct, omit_defaults=True):
    """An answer, or why there is none."""

    answer: RecommendAnswer | None = None
    error: ErrorBody | None = None


class BatchAnswer(msgspec.Struct):
    """An entry a request, in their order."""

    answers: list[BatchEntry]


class CatalogueItem(msgspec.Struct):
    """An item of the catalogue."""

    item_id: str
    title: str
    sid: str
    listed: bool
    in_stock: bool
    attributes: dict[str, list[str]] = {}


class ItemsAnswer(msgspec.Struct):
    """Items found by words of their titles."""

    items: list[CatalogueItem]
    catalogue_version: str


class SimilarItem(msgspec.Struct):
    """An item that is like another, and how much."""

    item_id: str
    title: str
    score: float
    rank: int


class SimilarAnswer(msgspec.Struct):
    """What is like an item."""

    items: list[SimilarItem]
    by: str
    catalogue_version: str


class Status(msgspec.Struct):
    """What the server serves, and how it does."""

    ready: bool
    draining: bool
    model_version: str
    catalogue_version: str
    num_items: int
    num_listed: int
    rank_by: list[str]
    num_beams: int
    tile: int
    columns: list[str]
    exclude_seen: bool
    waiting: int
    tiles_in_flight: int
    tile_seconds: float
    compilations: int
    cache: dict[str, int]
    replicas: int = 1


class CatalogueChange(msgspec.Struct, forbid_unknown_fields=True):
    """A new version of the catalogue; paths are of the server's machine."""

    sids: str | None = None
    titles: str | None = None
    appended: str | None = None
    withdraw: list[ItemId] = []
    restore: list[ItemId] = []


class StockChange(msgspec.Struct, forbid_unknown_fields=True):
    """Items that are sold out, and items that are back."""

    out: list[ItemId] = []
    back: list[ItemId] = []


class ModelChange(msgspec.Struct, forbid_unknown_fields=True):
    """Another run of the same work folder; null: this run's newest checkpoint."""

    run: str | None = None


class VersionAnswer(msgspec.Struct):
    """What serves after a change."""

    model_version: str
    catalogue_version: str
    num_listed: int


def read_message[Message](kind: type[Message], body: bytes) -> Message:
    """Returns the message in a body.

    Raises:
        msgspec.ValidationError: a field is missing, unknown or not as described; the text names it.
        msgspec.DecodeError: the body is no JSON.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deep") from error
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("the body is not UTF-8") from error


def components(kinds: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns JSON schemas of messages, for OpenAPI: a reference each, and what they refer to."""
    schemas, parts = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    return list(schemas), dict(parts)
