"""What clients ask of an engine, and what they get."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future

from minirec.serving.query import Found
from minirec.serving.recommender import Served
from minirec.serving.rules import Rule


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
        history: raw item ids, oldest first.
        num: items to recommend; None: as many as a search has beams, ten at most.
        exclude: raw item ids that must not be recommended.
        allow: rules about the catalogue's columns.
        rank_by: one of `Served.rankings`; None: the first of them.
        exclude_seen: whether items of the history are left out; None: as the run's config says.
        sold_out: whether items that are out of stock may be recommended.
        skip_unknown: leave out ids that the catalogue lacks, and list them in the answer.
        explain: whether the answer says how it came about.
        deadline_s: seconds in which the answer must be there; None: the engine's.
    """

    history: Sequence[str] = ()
    num: int | None = None
    exclude: Sequence[str] = ()
    allow: tuple[Rule, ...] = ()
    rank_by: str | None = None
    exclude_seen: bool | None = None
    sold_out: bool = False
    skip_unknown: bool = False
    explain: bool = False
    deadline_s: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What a request gets.

    Attributes:
        found: the items, best first.
        rank_by: what ranked them.
        served: the version that answered.
        stock_number: changes of stock that it knew of.
        unknown: ids of the request that the catalogue lacks and that were left out.
        queued_s: seconds until its tile began.
        searched_s: seconds that its tile took.
    """

    found: Found
    rank_by: str
    served: Served
    stock_number: int
    unknown: tuple[str, ...]
    queued_s: float
    searched_s: float

    @property
    def catalogue_version(self) -> str:
        """The catalogue's number, and how many changes of stock."""
        return f"{self.served.catalogue.number}.{self.stock_number}"


class Pending(Future[Answer]):
    """Will hold an answer, or `LateError` and the like.

    Attributes:
        came: when the request came, by the engine's clock.
        expected_s: after how many seconds an answer was expected then.
    """

    came: float = 0.0
    expected_s: float = 0.0
