"""Watch lists from a database as arrays, in an order, and what of them is held out."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
from jaxtyping import Bool, Int8, Int32, Int64, UInt64

from pipelines.tables.bad_rows import BadRows
from pipelines.tables.sqlite_table import SqliteTable
from pipelines.tables.table import Kind, check_columns, flush
from pipelines.text.watch_catalogue import Tell, WatchCatalogue, whole
from pipelines.text.watch_config import MARKS, NO_ORDER, HoldOut, WatchConfig

TRAIN, VALID, TEST = 0, 1, 2
_MOST_SCORE = 10
_TOLD_EVERY = 2_000_000  # rows


@dataclasses.dataclass(frozen=True, eq=False)
class Lists:
    """The lists' entries, user after user, each user's in the order of the config.

    Attributes:
        users: int64 [U], what the database calls each user, ascending.
        offsets: int64 [U + 1]; the entries of user `u` are `offsets[u]:offsets[u + 1]`.
        item: int32 [E], row of the catalogue; each stands in a list once.
        mark: int8 [E], place in `MARKS`.
    """

    users: Int64[np.ndarray, " U"]
    offsets: Int64[np.ndarray, " U+1"]
    item: Int32[np.ndarray, " E"]
    mark: Int8[np.ndarray, " E"]

    @property
    def user_of(self) -> Int32[np.ndarray, " E"]:
        """Whose each entry is."""
        return np.repeat(np.arange(len(self.users), dtype=np.int32), np.diff(self.offsets))

    def where(self, kept: Bool[np.ndarray, " E"]) -> Lists:
        """Returns some of the entries; users without any stay, with empty lists."""
        ends = np.concatenate([[0], np.cumsum(kept)])
        return Lists(self.users, ends[self.offsets], self.item[kept], self.mark[kept])


def read_lists(
    config: WatchConfig, catalogue: WatchCatalogue, tell: Tell = lambda text: None
) -> tuple[Lists, dict[str, int]]:
    """Returns the entries of allowed statuses whose items are in the catalogue, and counts.

    Rows are read in blocks, so that memory follows the entries that are kept, some 50 bytes each.

    Args:
        config: names file, table, columns, statuses and the order.
        catalogue: the items.
        tell: is told now and then how many rows were read.

    Raises:
        ValueError: the table or a column is missing; a status that the config does not know, a
            score outside 0 to 10, a value of another type; an order that is the same in all rows;
            or nothing is left. The message names file, table, row and value.
    """
    columns, allowed = config.columns, np.array(sorted(config.task_b_allowed_statuses))
    where = f"{config.database}, table {columns.lists!r}"
    table = SqliteTable(str(config.database), where, table=columns.lists)
    names = [columns.list_user, columns.list_item, columns.list_score, columns.list_status]
    kinds: dict[str, Kind] = {
        columns.list_user: "id",
        columns.list_item: "id",
        columns.list_score: "number",
        columns.list_status: "number",
    }
    if config.order_by != NO_ORDER:
        names.append(config.order_by)
        kinds[config.order_by] = "time"
    check_columns(table, names, "tasks.columns")
    parts: list[tuple[np.ndarray, ...]] = []
    counts = dict.fromkeys(("rows", "rows_of_other_statuses", "rows_without_item"), 0)
    told = 0
    for rows in table.rows(kinds):
        flush(rows.problems, BadRows("error"))
        values = [whole(rows.frame[name], rows.line, where, name) for name in names[:4]]
        user, item, score, status = values
        _check(score, status, rows.line, where, config)
        counts["rows"] += len(user)
        is_allowed = np.isin(status, allowed)
        place = np.minimum(np.searchsorted(catalogue.item_id, item), len(catalogue) - 1)
        is_known = catalogue.item_id[place] == item
        counts["rows_of_other_statuses"] += int(np.count_nonzero(~is_allowed))
        counts["rows_without_item"] += int(np.count_nonzero(is_allowed & ~is_known))
        kept = is_allowed & is_known
        part = [user[kept], place[kept].astype(np.int32), _marks(score, status, config)[kept]]
        if config.order_by != NO_ORDER:
            moments = _moments(rows.frame[config.order_by], rows.line, where, config.order_by)
            part.append(moments[kept])
        parts.append(tuple(part))
        if counts["rows"] - told >= _TOLD_EVERY:
            told = counts["rows"]
            tell(f"read {told:,} rows")
    if not sum(len(part[0]) for part in parts):
        raise ValueError(
            f"{where}: no row of {counts['rows']:,} is left: {counts['rows_of_other_statuses']:,} "
            f"have other statuses than {allowed.tolist()}, {counts['rows_without_item']:,} an item "
            "without SID or metadata"
        )
    merged = [np.concatenate(column) for column in zip(*parts, strict=True)]
    parts.clear()
    if config.order_by != NO_ORDER and merged[3].min() == merged[3].max():
        raise ValueError(
            f"{where}: {config.order_by} is the same in all {counts['rows']:,} rows, so that it "
            "says nothing of an order; set order_by='none'"
        )
    lists, repeated = _in_order(*merged, num_items=len(catalogue), seed=config.seed)
    counts |= {
        "rows_repeated": repeated,
        "entries": len(lists.item),
        "users": len(lists.users),
    }
    tell(f"{counts['entries']:,} entries of {counts['users']:,} users")
    return lists, counts


def hold_out(
    lists: Lists, how: HoldOut, seed: int
) -> tuple[Int8[np.ndarray, " U"], Int8[np.ndarray, " E"]]:
    """Returns what no row may be made of, by users and by entries: TRAIN, VALID or TEST.

    A user is held out by a hash of the id, half of them for validation. Of each list of `how.least`
    entries the share `how.items` is drawn, by hashes of user and item, at least one; every second
    of them, from the second on, is for validation. What is drawn of a user who is held out is what
    the rest of the list is asked for.

    Args:
        lists: all entries.
        how: the shares.
        seed: of the hashes.
    """
    drawn = _hashes(lists.users, np.full(len(lists.users), -1), seed)
    share = (drawn >> np.uint64(12)).astype(np.float64) / 2.0**52
    role = np.where(share < how.users, np.where(drawn & np.uint64(1), TEST, VALID), TRAIN)
    user = lists.user_of
    key = _hashes(lists.users[user], lists.item, seed + 1)
    order = np.lexsort((key, user))
    size = np.diff(lists.offsets)
    count = np.where(size >= how.least, np.maximum(1, np.floor(size * how.items + 1e-9)), 0)
    count = np.where(how.items > 0, count, 0)
    place = np.arange(len(user)) - lists.offsets[user]  # `order` goes user by user as well.
    part = np.where(place < count[user], np.where(place % 2, VALID, TEST), TRAIN)
    held = np.empty(len(user), np.int8)
    held[order] = part
    return role.astype(np.int8), held


def _check(
    score: np.ndarray, status: np.ndarray, line: np.ndarray, where: str, config: WatchConfig
) -> None:
    columns = config.columns
    wrong = (score < 0) | (score > _MOST_SCORE)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{where}, row {line[row]}: {columns.list_score} is {score[row]}; must lie in "
            f"[0, {_MOST_SCORE}]"
        )
    unknown = ~np.isin(status, list(config.statuses))
    if unknown.any():
        row = int(unknown.argmax())
        known = ", ".join(f"{number} ({name})" for number, name in config.statuses.items())
        raise ValueError(
            f"{where}, row {line[row]}: {columns.list_status} is {status[row]}, which is none of "
            f"{known}"
        )


def _marks(score: np.ndarray, status: np.ndarray, config: WatchConfig) -> Int8[np.ndarray, " n"]:
    """Returns how each entry went: dropped before all, then planned, then by its score."""
    mark = np.full(len(score), MARKS.index("watch"), np.int8)
    mark[(score >= 1) & (score <= 3)] = MARKS.index("disliked")
    mark[score >= config.task_b_positive_score_min] = MARKS.index("liked")
    mark[status == config.planned_status] = MARKS.index("planned")
    mark[status == config.dropped_status] = MARKS.index("dropped")
    return mark


def _moments(
    values: pl.Series, line: np.ndarray, where: str, column: str
) -> Int64[np.ndarray, " n"]:
    """Returns an order column as numbers: whole ones as they are, dates in microseconds."""
    if values.dtype == pl.Int64 and not values.null_count():
        return values.to_numpy()
    numbers = values.cast(pl.Int64, strict=False)
    if not numbers.null_count():
        return numbers.to_numpy()
    moments = pl.Series(dtype=pl.Datetime("us"))
    for pattern in ("%+", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"):
        moments = values.str.to_datetime(pattern, time_unit="us", time_zone="UTC", strict=False)
        if not moments.null_count():
            return moments.dt.epoch("us").to_numpy()
    moments = values.str.to_date("%Y-%m-%d", strict=False)
    if moments.null_count():
        row = int(moments.is_null().arg_max() or 0)
        raise ValueError(
            f"{where}, row {line[row]}: {column} is {values[row]!r:.80}; must be a whole number or "
            "an ISO 8601 date, of one pattern in all rows"
        )
    return moments.cast(pl.Datetime("us")).dt.epoch("us").to_numpy()


def _in_order(
    user: np.ndarray,
    item: np.ndarray,
    mark: np.ndarray,
    moment: np.ndarray | None = None,
    *,
    num_items: int,
    seed: int,
) -> tuple[Lists, int]:
    """Returns the lists, and how many rows named an item that its user's list had already."""
    users, code = np.unique(user, return_inverse=True)
    code = code.astype(np.int32)
    # Of the rows of one user and item the first counts.
    _, first = np.unique(code.astype(np.int64) * num_items + item, return_index=True)
    repeated = len(code) - len(first)
    if repeated:
        first.sort()
        code, item, mark = code[first], item[first], mark[first]
        moment = None if moment is None else moment[first]
    del first
    # Where nothing says what came first, a hash does: not the file's order, nor the ids'.
    keys: list[np.ndarray] = [_hashes(users[code], item, seed + 2)]
    keys += [] if moment is None else [moment]
    order = np.lexsort((*keys, code))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(code, minlength=len(users)))])
    return Lists(users, offsets.astype(np.int64), item[order], mark[order]), repeated


def _hashes(first: np.ndarray, second: np.ndarray, seed: int) -> UInt64[np.ndarray, " n"]:
    """Returns a hash of each pair of whole numbers (splitmix64 of Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        value = np.full(len(first), seed, np.uint64)
        for part in (first, second):
            value = _mixed(value ^ _mixed(part.astype(np.int64).astype(np.uint64)))
    return value


def _mixed(value: np.ndarray) -> np.ndarray:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
