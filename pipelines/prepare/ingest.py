"""Reads a log of any size, chunk by chunk, into columns of dense numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
from jaxtyping import Bool, Int32, Int64

from pipelines.prepare.ids import IdCodes
from pipelines.prepare.like_ids import like_ids
from pipelines.prepare.log_options import AS_IT_IS, LogOptions
from pipelines.prepare.log_times import LogTimes, within_window
from pipelines.prepare.previous import group_offsets
from pipelines.prepared_files import CARRIED
from pipelines.tables.ahead import ahead
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import ITEM_SCHEMA, RawDataset, check_frame

_COLUMNS = {"user": np.int32, "item": np.int32, "time": np.int64, "event": np.int32}
MAX_ROWS = 2**31 - 1


@dataclasses.dataclass
class CodedLog:
    """A log whose users and items are numbers, in the order of the source.

    Attributes:
        user: `[E]` place in `users`.
        item: `[E]` row of `items`.
        time: `[E]` nanoseconds since 1970.
        event: `[E]` index of the event's type.
        users: raw id of each user.
        items: the catalogue, columns `ITEM_SCHEMA` and those that `source.columns` names.
        place: `[E]` place in the log of each row, once they are in another order.
    """

    user: Int32[np.ndarray, " E"]
    item: Int32[np.ndarray, " E"]
    time: Int64[np.ndarray, " E"]
    event: Int32[np.ndarray, " E"]
    users: pl.Series
    items: pl.DataFrame
    place: Int32[np.ndarray, " E"] | None = None

    def sizes(self) -> dict[str, int]:
        """Returns how many users, items and interactions there are, for the manifest."""
        return sizes(len(self.users), len(self.items), len(self.user))


def sizes(num_users: int, num_items: int, num_interactions: int) -> dict[str, int]:
    """Returns the sizes of a log as the manifest names them."""
    return {"users": num_users, "items": num_items, "interactions": num_interactions}


def read_log(
    raw: RawDataset,
    bad_rows: BadRows,
    progress: Callable[[int], None] | None = None,
    *,
    options: LogOptions = AS_IT_IS,
    times: LogTimes | None = None,
) -> CodedLog:
    """Reads all parts of a log and numbers its users and items.

    Users are numbered by their first interaction. The items are the catalogue's, in its order; a
    log without one has its own items for a catalogue, sorted by id as text.

    Args:
        raw: what a source found.
        bad_rows: is told of rows that are wrong.
        progress: is told after each chunk how many rows there are so far.
        options: have the window of time outside of which rows are not part of the log.
        times: is told the times of the rows.

    Raises:
        ValueError: nothing in it, a duplicate in the catalogue, an item that the catalogue lacks,
            an unknown event type, or what the source's parts find wrong.
    """
    users, items = IdCodes(), IdCodes()
    catalogue = check_catalogue(raw, bad_rows)
    listed = None if catalogue is None else items.encode(catalogue["raw_item_id"])
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    num_rows = 0

    def chunks() -> Iterator[tuple[str, pl.DataFrame]]:
        for part in raw.parts:
            for chunk in part.chunks(bad_rows):
                yield part.name, chunk

    # Three things at a time: the next chunk is read while users and items of this one are coded.
    with ahead(chunks) as read, ThreadPoolExecutor(max_workers=1) as pool:
        for name, chunk in read:
            check_events(name, chunk, raw.event_types)
            chunk = within_window(chunk, options, bad_rows)
            of_users = pool.submit(users.encode, chunk["user"])
            columns = {"item": items.encode(chunk["item"]), "user": of_users.result()}
            columns |= {column: chunk[column].to_numpy() for column in ("time", "event")}
            if catalogue is not None and listed is not None and len(items) > len(listed):
                is_known = columns["item"] < len(listed)
                if not is_known.all():
                    unknown = chunk.filter(~pl.Series(is_known))
                    # A given split counts rows: it would point at others without these.
                    may_go = raw.given_split is None
                    listed_ids = catalogue["raw_item_id"]
                    report_unknown(name, unknown, listed_ids, bad_rows, may_go=may_go)
                    columns = {key: column[is_known] for key, column in columns.items()}
            if times is not None:
                times.add(columns["time"])
            for key, column in columns.items():
                # A copy of its own: a view would keep the whole chunk alive.
                pieces[key].append(column.astype(_COLUMNS[key], copy=True))
            num_rows += len(columns["user"])
            check_size(name, num_rows)
            if progress is not None:
                progress(num_rows)
    check_not_empty(num_rows, raw, bad_rows)
    # One column at a time, so that only one stands in memory twice.
    whole = {name: np.concatenate(pieces.pop(name)) for name in _COLUMNS}
    if catalogue is None:
        by_id = items.names().to_frame("id").with_row_index("code").sort("id")
        listed, catalogue = by_id["code"].to_numpy(), catalogue_of(by_id["id"])
    assert listed is not None
    whole["item"] = _inverse(listed)[whole["item"]]
    return keep(CodedLog(**whole, users=users.names(), items=catalogue))


def keep(
    log: CodedLog,
    rows: Bool[np.ndarray, " E"] | None = None,
    *,
    drop_items: bool = False,
    by_id: bool = False,
) -> CodedLog:
    """Returns the interactions that `rows` marks (None: all), users numbered anew.

    Users are numbered by the first of their interactions in the log that is left; those without one
    go. The log itself is changed, so that a large one never stands in memory twice.

    Args:
        log: the whole log, each user's rows together if it is not in its own order; used up.
        rows: which interactions stay.
        drop_items: whether items without an interaction go as well.
        by_id: number users by their ids as text instead, by the bytes of its UTF-8.
    """
    if rows is not None:
        for name in (*_COLUMNS, "place"):  # One at a time: the old goes before the next is made.
            if (column := getattr(log, name)) is not None:
                setattr(log, name, column[rows])
    size = len(log.user)
    first = np.full(len(log.users), MAX_ROWS, np.int32)
    if log.place is None:
        # Of a user's rows the last one written, and so the oldest, stays.
        first[log.user[::-1]] = np.arange(size - 1, -1, -1, dtype=np.int32)
    elif size:
        starts = group_offsets(log.user)[:-1]
        first[log.user[starts]] = np.minimum.reduceat(log.place, starts)
    order = np.argsort(first, kind="stable").astype(np.int32)
    order = order[: int(np.count_nonzero(first < MAX_ROWS))]
    if by_id:
        order = order[log.users.gather(order).arg_sort().to_numpy()]
    if len(order) < len(first) or (np.diff(order) < 0).any():
        log.user = _inverse(order, len(first))[log.user]
        log.users = log.users.gather(order)
    if drop_items:
        stays = np.zeros(len(log.items), bool)
        stays[log.item] = True
        if not stays.all():
            log.item = (np.cumsum(stays, dtype=np.int32) - 1)[log.item]
            log.items = log.items.filter(pl.Series(stays))
    return log


def place_of(raw: RawDataset, column: str, raw_id: str) -> str:
    """Returns "file, line N" of the first row with a user or item, by reading the log again."""
    for part in raw.parts:
        for chunk in part.chunks(BadRows("skip")):
            found = chunk.filter(pl.col(column).cast(pl.String) == raw_id)
            if len(found):
                return f"{part.name}, line {found['line'][0]}"
    raise ValueError(f"{column} {raw_id!r} is in no part of the log")


def check_size(name: str, num_rows: int) -> None:
    """Raises ValueError if a log has more rows than a data set holds, once `name` is read."""
    if num_rows > MAX_ROWS:
        raise ValueError(
            f"{name}: more than {MAX_ROWS} interactions; a data set holds at most that many"
        )


def check_not_empty(num_rows: int, raw: RawDataset, bad_rows: BadRows) -> None:
    """Raises ValueError if a log has no rows."""
    if not num_rows:
        of = f" of {read} rows" if (read := bad_rows.num_rows()) else ""
        raise ValueError(
            f"{names_of(raw)}: no interactions{of}: there is nothing to prepare"
            f"{bad_rows.in_words()}"
        )


def names_of(raw: RawDataset) -> str:
    """Returns the names of a log's parts for a message, the first three of many."""
    names = ", ".join(part.name for part in raw.parts[:3]) or "the source"
    return names if len(raw.parts) <= 3 else f"{names} and {len(raw.parts) - 3} more"


def catalogue_of(raw_item_ids: pl.Series) -> pl.DataFrame:
    """Returns a catalogue of items of which nothing but the id is known."""
    return pl.DataFrame({"raw_item_id": raw_item_ids}).select(
        pl.col("raw_item_id"),
        pl.lit("").alias("title"),
        pl.lit("").alias("text"),
        pl.lit([], dtype=pl.List(pl.String)).alias("attributes"),
    )


def check_catalogue(raw: RawDataset, bad_rows: BadRows) -> pl.DataFrame | None:
    """Returns the catalogue, without items that are listed a second time; None for none.

    Raises:
        ValueError: it is empty, has wrong columns, or lists an item twice.
    """
    items = raw.items
    if items is None:
        return None
    carried = items.drop(*ITEM_SCHEMA, strict=False)
    check_frame("items", items.drop(carried.columns), ITEM_SCHEMA)
    for name, kind in carried.schema.items():
        if kind not in CARRIED:
            raise ValueError(
                f"items: column {name!r} is of type {kind}; it must be "
                f"{', '.join(str(one()) for one in CARRIED)}"
            )
    if items.is_empty():
        names = ", ".join(list(raw.inputs)[:3]) or "the source"
        raise ValueError(
            f"{names}: no items in the catalogue: there is nothing to prepare{bad_rows.in_words()}"
        )
    again = items["raw_item_id"].is_first_distinct().not_()
    if not again.any():
        return items
    second = int(again.arg_true()[0])
    item = items["raw_item_id"][second]
    first = int((items["raw_item_id"] == item).arg_true()[0])
    bad_rows.add(
        "duplicate_item",
        f"the catalogue lists item {item!r} more than once (items {first + 1} and {second + 1}); "
        "every item needs exactly one row",
        int(again.sum()),
    )
    return items.filter(again.not_())


def check_events(name: str, chunk: pl.DataFrame, event_types: Sequence[str]) -> None:
    """Raises ValueError, naming the line, if the source does not know an event's type."""
    event = chunk["event"].to_numpy()
    if len(event) and (event.min() < 0 or event.max() >= len(event_types)):
        wrong = int(np.argmax((event < 0) | (event >= len(event_types))))
        raise ValueError(
            f"{name}, line {chunk['line'][wrong]}: event type {event[wrong]}, but there are "
            f"{len(event_types)}: {event_types}"
        )


def report_unknown(
    name: str, unknown: pl.DataFrame, listed: pl.Series, bad_rows: BadRows, *, may_go: bool = True
) -> None:
    """Tells of rows whose items the catalogue lacks.

    Args:
        name: of the part that they are from.
        unknown: the rows, at least one.
        listed: the catalogue's ids.
        bad_rows: is told.
        may_go: whether such rows can be left out at all.

    Raises:
        ValueError: bad rows are errors, or may not be left out.
    """
    row = unknown.row(0, named=True)
    hint = "" if "unknown_item" in bad_rows.first else like_ids(unknown["item"], listed)
    message = (
        f"{name}, line {row['line']}: user {str(row['user'])!r} has item {str(row['item'])!r}, "
        f"which the catalogue lacks; {hint or 'add it to the catalogue'}"
    )
    if not may_go:
        raise ValueError(f"{message} (no row of a log with a given split can be left out)")
    bad_rows.add("unknown_item", message, len(unknown))


def _inverse(order: np.ndarray, size: int | None = None) -> Int32[np.ndarray, " n"]:
    """Returns where each number stands in `order`; those that it lacks are not looked up."""
    place = np.zeros(len(order) if size is None else size, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return place
