"""Settings of the tasks that are made of watch histories, and their checks."""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.text.watch_words import Words

MASK_MODES = ("last", "random")
POLICIES = ("repeat", "shrink", "error")
NO_ORDER = "none"
MARKS = ("watch", "liked", "disliked", "dropped", "planned")
"""How a listed item went; an entry's number is the mark's in arrays."""

FACTS = ("title", "genres", "studios", "year", "season", "type", "source", "synopsis", "themes")
"""What may be known of an item. Genres, studios and themes are lists."""

_SHARES = ("split_task_a", "split_task_b", "split_task_c")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which table and column of the database is what.

    Attributes:
        items: table of the catalogue.
        item_id: its column of whole numbers, that the lists name items by.
        title: column of titles.
        title_else: column that a title is taken from where that one is empty; "" for none.
        genres: column of genres; "" for none, here and below.
        studios: column of studios.
        year: column of years, whole numbers.
        season: column of seasons, such as "Spring 1998".
        type: column of types.
        source: column of what it was made after.
        synopsis: column of summaries.
        themes: column of themes.
        separator: parts the text of genres, studios and themes into several.
        missing: texts that mean that nothing is known.
        lists: table of the lists, a row a user and item.
        list_user: its column of users, whole numbers.
        list_item: its column of items.
        list_score: its column of scores, whole numbers from 0 (none) to 10.
        list_status: its column of statuses.
    """

    items: str = "anime"
    item_id: str = "anime_id"
    title: str = "english_name"
    title_else: str = "name"
    genres: str = "genres"
    studios: str = "studios"
    year: str = "year"
    season: str = "premiered"
    type: str = "type"
    source: str = "source"
    synopsis: str = "synopsis"
    themes: str = ""
    separator: str = ", "
    missing: tuple[str, ...] = ("Unknown", "None", "-")
    lists: str = "user_anime"
    list_user: str = "user_id"
    list_item: str = "anime_id"
    list_score: str = "score"
    list_status: str = "watching_status"


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """What is kept for validation and test; see `pipelines.text.watch_lists.hold_out`.

    Attributes:
        users: share of the users of whom no row is made.
        items: share of each other user's list that no row is made of.
        least: entries that a list must have for a part of it to be held out.
    """

    users: float = 0.1
    items: float = 0.2
    least: int = 5

    def __post_init__(self) -> None:
        for name in ("users", "items"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"hold_out.{name}={value!r}: must lie in [0, 1)")
        if self.least < 2:
            raise ValueError(f"hold_out.least={self.least}: must be at least 2")


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """How rows are made of a database of watch lists and of a table of SIDs.

    Attributes:
        source_db: SQLite file; it is only ever read.
        semantic_ids_path: JSON lines, see `minirec.sids.sid_lines`.
        folder: where the two lie, unless their paths are whole ones.
        words: the rows' wording; None where no row is made.
        columns: tables and columns of the database.
        sid_id: field of the SID file that holds an item's id.
        statuses: the statuses that the lists may hold: by number, what one is called.
        dropped_status: the one that is marked as dropped.
        planned_status: the one of items that were not watched yet.
        order_by: column of the lists that says in which order items were watched: whole numbers, or
            dates as ISO 8601 has them. "none": nothing does, and histories are shown in a drawn
            order.
        target_examples: rows in all.
        split_task_a: share of rows that link SIDs and metadata.
        split_task_b: share of rows with a masked item of a history.
        split_task_c: share of rows about what liked items share.
        max_task_a_templates_per_anime: rows of task A an item at most.
        task_b_min_history: items that a history shows at least.
        task_b_max_history: items that it shows at most.
        task_b_positive_score_min: least score of a liked item.
        task_b_allowed_statuses: statuses whose rows count as watched.
        task_b_mask_modes: which item of a history is masked: its "last", or one at "random".
        task_b_mask_marks: marks of items that may be masked; an item that was dropped or disliked
            is no good answer.
        task_c_liked: how many liked items a row of task C shows.
        pool_too_small: what to do where a task has fewer different rows than its share asks for:
            "repeat" some, "shrink" the task, or take it for an "error".
        hold_out: what no row is made of.
        seed: of all that is drawn.
        rebuild: replace what is there.
        export_parquet: write the rows as Parquet, too.
        write_manifest: write what the rows were made from.
    """

    source_db: str
    semantic_ids_path: str
    folder: str = ""
    words: Words | None = None
    columns: Columns = dataclasses.field(default_factory=Columns)
    sid_id: str = "anime_id"
    statuses: Mapping[int, str] = dataclasses.field(
        default_factory=lambda: {
            1: "watching",
            2: "completed",
            3: "on hold",
            4: "dropped",
            6: "plan to watch",
        }
    )
    dropped_status: int = 4
    planned_status: int = 6
    order_by: str = NO_ORDER
    target_examples: int = 400_000
    split_task_a: float = 0.5
    split_task_b: float = 0.25
    split_task_c: float = 0.25
    max_task_a_templates_per_anime: int = 12
    task_b_min_history: int = 4
    task_b_max_history: int = 30
    task_b_positive_score_min: int = 7
    task_b_allowed_statuses: tuple[int, ...] = (1, 2, 3, 4)
    task_b_mask_modes: tuple[str, ...] = MASK_MODES
    task_b_mask_marks: tuple[str, ...] = ("watch", "liked")
    task_c_liked: tuple[int, ...] = (1, 3)
    pool_too_small: str = "repeat"
    hold_out: HoldOut = dataclasses.field(default_factory=HoldOut)
    seed: int = 42
    rebuild: bool = False
    export_parquet: bool = True
    write_manifest: bool = True

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: one is impossible; the message names it.
        """
        for name in ("source_db", "semantic_ids_path"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name the file")
        for name, least in (
            ("target_examples", 1),
            ("max_task_a_templates_per_anime", 1),
            ("task_b_min_history", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {least}")
        shares = [getattr(self, name) for name in _SHARES]
        if min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            told = ", ".join(f"{name}={value}" for name, value in zip(_SHARES, shares, strict=True))
            raise ValueError(f"{told}: must be 0 or more, and sum to 1; they sum to {sum(shares)}")
        if self.task_b_max_history < self.task_b_min_history:
            raise ValueError(
                f"task_b_max_history={self.task_b_max_history}: must be at least "
                f"task_b_min_history={self.task_b_min_history}"
            )
        if not 1 <= self.task_b_positive_score_min <= 10:
            raise ValueError(
                f"task_b_positive_score_min={self.task_b_positive_score_min}: must lie in [1, 10]"
            )
        for name, known in (
            ("task_b_allowed_statuses", tuple(self.statuses)),
            ("task_b_mask_modes", MASK_MODES),
            ("task_b_mask_marks", MARKS),
            ("task_c_liked", (1, 2, 3, 4, 5)),
        ):
            values = getattr(self, name)
            unknown = [value for value in values if value not in known]
            if unknown or not values or len(set(values)) < len(values):
                what = f"{unknown[0]!r} is none of" if unknown else "at least one, each once, of"
                raise ValueError(f"{name}={values!r}: {what} {', '.join(map(str, known))}")
        if self.order_by == NO_ORDER and "last" in self.task_b_mask_modes:
            raise ValueError(
                f"task_b_mask_modes={self.task_b_mask_modes!r}: 'last' needs an order, and order_by"
                "='none' says that the lists have none; name their column of times, or take "
                "('random',)"
            )
        if self.pool_too_small not in POLICIES:
            raise ValueError(
                f"pool_too_small={self.pool_too_small!r}: must be one of {', '.join(POLICIES)}"
            )
        if not self.order_by:
            raise ValueError("order_by is empty: name a column of the lists, or 'none'")

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> WatchConfig:
        """Returns the settings in plain values, as a config file has them.

        Raises:
            ValueError: an unknown field, or one that is impossible.
        """
        fields = {name: _tuples(value) for name, value in config.items()}
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise ValueError(f"tasks.{unknown[0]} is not a field; there are {', '.join(known)}")
        for name, kind in (("columns", Columns), ("hold_out", HoldOut)):
            if name in fields:
                part = dict(fields[name])
                there = {field.name for field in dataclasses.fields(kind)}
                if unknown := sorted(set(part) - there):
                    raise ValueError(f"tasks.{name}.{unknown[0]} is not a field of it")
                fields[name] = kind(**{key: _tuples(value) for key, value in part.items()})
        if "statuses" in fields:
            fields["statuses"] = _statuses(fields["statuses"])
        if fields.get("words") is not None:
            fields["words"] = Words.from_mapping(fields["words"], FACTS, MARKS)
        return cls(**fields)

    @property
    def database(self) -> Path:
        """Where the database lies."""
        return Path(self.folder) / self.source_db

    @property
    def sid_file(self) -> Path:
        """Where the SIDs lie."""
        return Path(self.folder) / self.semantic_ids_path

    @property
    def said(self) -> Words:
        """The wording.

        Raises:
            ValueError: there is none.
        """
        if self.words is None:
            raise ValueError("tasks.words is missing: rows need a wording")
        return self.words

    def record(self) -> dict[str, Any]:
        """Returns what shapes the rows, a JSON value: all but places and what is written beside."""
        fields = dataclasses.asdict(self)
        for name in ("source_db", "semantic_ids_path", "folder", "rebuild"):
            fields.pop(name)
        fields["statuses"] = {str(number): name for number, name in self.statuses.items()}
        return fields


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _statuses(given: Mapping[Any, str]) -> dict[int, str]:
    found = {}
    for number, name in given.items():
        text = str(number).removeprefix("status_")
        if not set(text) <= set(string.digits) or not text:
            raise ValueError(f"tasks.statuses: {number!r} is not a number of a status")
        found[int(text)] = str(name)
    return found
