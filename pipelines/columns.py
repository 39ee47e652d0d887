"""What the columns of a log mean, and which values they may have; shared by all table sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from pipelines.bad_rows import BadRows
from pipelines.readers import Reader
from pipelines.readers.reader import shown

MAX_ID_CHARACTERS = 1000
# 2100-01-01: whatever is later counts in another unit, or is damaged.
_YEAR_2100 = 4_102_444_800
# 1973: seconds from here to 2100, read in a finer unit, fall into the first weeks of 1970.
_EARLIEST_REAL = 100_000_000
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
TIME_UNITS = (*_UNITS, "iso")
_DIRT = r"[\x00-\x1f\x7f\x{80}-\x{9f}]|^\s|\s$"
# Beyond it a floating-point number does not tell whole numbers apart.
_LARGEST_EXACT = 2.0**53


# A reason, the rows it holds for, the field at fault, and what would be right.
Problem = tuple[str, pl.Series, str, str]


@dataclasses.dataclass(frozen=True)
class LogColumns:
    """Which column of a log is what.

    Attributes:
        user: column of the user's id.
        item: column of the item's id.
        time: column of the time; empty: the log is in order, and has no times.
        time_unit: "s", "ms", "us" or "ns" since 1970 (UTC), or "iso" for ISO 8601 text. Dates and
            times that a Parquet file knows as such need none.
        event: column of the event's type; empty: there is one type.
        events: the types, by name, and what an event of each counts as a training target. Rows of
            a type that counts 0 are left out.
    """

    user: str
    item: str
    time: str = ""
    time_unit: str = "s"
    event: str = ""
    events: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for field in ("user", "item"):
            if not getattr(self, field):
                raise ValueError(f"{field} is empty; it must name a column")
        if self.time_unit not in TIME_UNITS:
            raise ValueError(
                f"time_unit is {self.time_unit!r}; it must be one of {', '.join(TIME_UNITS)}"
            )
        if bool(self.event) != bool(self.events):
            raise ValueError(
                f"event is {self.event!r} and events are {dict(self.events)}; a column of event "
                "types needs the list of types, and the other way round"
            )
        for name, weight in self.events.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"events: {name!r} counts {weight}; it must be 0 or more")
        if self.events and not any(self.events.values()):
            raise ValueError("events: all types count 0; nothing would be left")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, each once."""
        used = (self.user, self.item, self.time, self.event)
        return tuple(dict.fromkeys(name for name in used if name))

    @property
    def event_weights(self) -> dict[str, float]:
        """The types that are kept and what they count."""
        kept = {name: float(weight) for name, weight in self.events.items() if weight}
        return kept or {"interaction": 1.0}


@dataclasses.dataclass(frozen=True)
class TablePart:
    """A file of a log, a row an interaction.

    Attributes:
        name: the file's name.
        path: where it lies.
        reader: reads its format.
        columns: which column is what.
    """

    name: str
    path: Path
    reader: Reader
    columns: LogColumns

    def chunks(self, bad_rows: BadRows) -> Iterator[pl.DataFrame]:
        """Yields the interactions; see `pipelines.interactions.Part`.

        Raises:
            ValueError: a mistake in the data.
        """
        for frame in self.reader.frames(self.path, self.columns.names, bad_rows):
            chunk = interactions(self.path, frame, self.columns, bad_rows)
            if len(chunk):
                yield chunk


def interactions(
    path: Path, frame: pl.DataFrame, columns: LogColumns, bad_rows: BadRows
) -> pl.DataFrame:
    """Returns a chunk of a log: columns user, item, time, event and line, all of them sound.

    Args:
        path: for messages.
        frame: the columns as they stand in the file, and `line`.
        columns: which is what.
        bad_rows: is told of rows with a value that cannot be.

    Raises:
        ValueError: a column's type is impossible, or a value and bad rows are errors.
    """
    raw = pl.DataFrame({"line": frame["line"]})
    problems: list[Problem] = []
    originals: dict[str, pl.Series] = {}
    for column in ("user", "item"):
        originals[column] = frame[getattr(columns, column)]
        ids, found = clean_ids(path, originals[column], column)
        raw = raw.with_columns(ids.alias(column))
        problems += found
    if columns.time:
        time, found = _times(path, frame[columns.time], columns.time_unit)
        raw = raw.with_columns(time.alias("time"))
        problems += found
        originals["time"] = frame[columns.time]
    else:
        raw = raw.with_columns(pl.lit(0, pl.Int64).alias("time"))
    if columns.event:
        names = frame[columns.event].cast(pl.String)
        code = {name: number for number, name in enumerate(columns.event_weights)}
        code |= {name: -1 for name, weight in columns.events.items() if not weight}
        event = names.replace_strict(code, default=None, return_dtype=pl.Int32)
        raw = raw.with_columns(event.alias("event"))
        known = ", ".join(columns.events)
        problems.append(
            ("unknown_event", event.is_null(), "event", f"it must be one of the events {known}")
        )
        originals["event"] = names
    else:
        raw = raw.with_columns(pl.lit(0, pl.Int32).alias("event"))
    sound = tell(path, raw["line"], problems, originals, bad_rows)
    if sound is not None:
        raw = raw.filter(sound)
    if columns.event and len(raw) and raw["event"].min() == -1:
        unwanted = raw.filter(pl.col("event") < 0)
        types = ", ".join(name for name, weight in columns.events.items() if not weight)
        bad_rows.leave_out(
            "event_counts_0",
            f"{path}, line {unwanted['line'][0]}: events: {types} count 0",
            len(unwanted),
        )
        raw = raw.filter(pl.col("event") >= 0)
    return raw.select("user", "item", "time", "event", "line")


def tell(
    path: Path,
    line: pl.Series,
    problems: list[Problem],
    originals: Mapping[str, pl.Series],
    bad_rows: BadRows,
) -> pl.Series | None:
    """Tells of bad rows, the first line first, each row once; returns which are sound, or None.

    Args:
        path: the file.
        line: each row's line.
        problems: what is wrong with which rows.
        originals: what each field has in the file.
        bad_rows: is told.

    Raises:
        ValueError: there are bad rows, and they are errors.
    """
    problems = [problem for problem in problems if problem[1].any()]
    if not problems:
        return None
    told = pl.repeat(False, len(line), eager=True)
    first: list[tuple[int, str, str, int]] = []
    for reason, wrong, column, right in problems:
        new = wrong.fill_null(False) & ~told
        count = int(new.sum())
        if count:
            place = int(new.arg_max() or 0)
            message = (
                f"{path}, line {line[place]}: {column} (column {originals[column].name!r}) is "
                f"{shown(originals[column][place])}; {right}"
            )
            first.append((int(line[place]), reason, message, count))
            told |= new
    for _, reason, message, count in sorted(first):
        bad_rows.add(reason, message, count)
    return ~told


def _id(path: Path, values: pl.Series) -> pl.Series:
    """Ids as Int64 or text; what a floating-point column has no whole number for becomes null."""
    kind = values.dtype
    if kind == pl.String or kind == pl.Int64:
        return values
    if kind == pl.UInt64 or isinstance(kind, pl.Categorical | pl.Enum):
        return values.cast(pl.String)
    if kind.is_integer():
        return values.cast(pl.Int64)
    if kind.is_float():  # What pandas makes of integers when one is missing.
        whole = values.is_finite() & (values == values.floor()) & (values.abs() <= _LARGEST_EXACT)
        return pl.select(pl.when(whole).then(values).otherwise(None)).to_series().cast(pl.Int64)
    if kind == pl.Null:
        return values.cast(pl.String)
    raise ValueError(f"{path}: column {values.name!r} is of type {kind}; ids are text or integers")


def clean_ids(path: Path, values: pl.Series, field: str) -> tuple[pl.Series, list[Problem]]:
    """Returns ids as text or Int64, and which of them cannot be ids.

    Args:
        path: for messages.
        values: what the file has.
        field: "user" or "item".

    Raises:
        ValueError: the column is of a type that ids are not.
    """
    ids = _id(path, values)
    missing = ids.is_null()
    if ids.dtype != pl.String:
        return ids, [(f"missing_{field}", missing, field, "every row needs text or a whole number")]
    size = ids.str.len_bytes()
    problems: list[Problem] = [
        (f"missing_{field}", missing | (size == 0), field, "every row needs one")
    ]
    if (size > MAX_ID_CHARACTERS).any():
        long = ids.str.len_chars() > MAX_ID_CHARACTERS
        problems.append(
            ("id_too_long", long, field, f"an id has at most {MAX_ID_CHARACTERS} characters")
        )
    dirt = ids.str.contains(_DIRT)
    right = "an id has no control character, and no space at its ends"
    return ids, [*problems, ("unclean_id", dirt, field, right)]


def _times(path: Path, values: pl.Series, unit: str) -> tuple[pl.Series, list[Problem]]:
    """Times in whole seconds, rounded down, and what is wrong with them."""
    kind = values.dtype
    if isinstance(kind, pl.Datetime) or kind == pl.Date:
        seconds = values.cast(pl.Datetime("us")).dt.epoch("s")
        return seconds, _range_problems(seconds, "time")
    if unit == "iso":
        if kind != pl.String:
            raise ValueError(
                f"{path}: column {values.name!r} is of type {kind}; time_unit 'iso' is for text"
            )
        seconds = _iso_seconds(values)
        unread: Problem = (
            "time_not_a_time",
            seconds.is_null(),
            "time",
            "it must be a time in ISO 8601",
        )
        return seconds, [unread, *_range_problems(seconds, "time")]
    if kind == pl.String:
        number = values.cast(pl.Int64, strict=False)
        if number.null_count():
            number = _with_fractions(values, number)
    elif kind.is_integer():
        number = values.cast(pl.Int64, strict=False)
    elif kind.is_float():
        number = values.floor().cast(pl.Int64, strict=False)
    elif kind == pl.Null:
        number = values.cast(pl.Int64)
    else:
        raise ValueError(
            f"{path}: column {values.name!r} is of type {kind}; a time is a number, text or a date"
        )
    factor = _UNITS[unit]
    seconds = number if factor == 1 else number // factor
    problems: list[Problem] = [
        ("time_not_a_number", number.is_null(), "time", f"it must be a number, in {unit}")
    ]
    if factor > 1:
        coarse = number // (factor // 1000)
        wrong = (coarse >= _EARLIEST_REAL) & (coarse <= _YEAR_2100)
        names = list(_UNITS)
        coarser = names[names.index(unit) - 1]
        problems.append(
            (
                f"time_in_{coarser}",
                wrong,
                "time",
                f"time_unit is {unit!r}, this looks like {coarser!r}",
            )
        )
    finer = _FINER.get(unit)
    if finer:
        wrong = (seconds // 1000 >= _EARLIEST_REAL) & (seconds // 1000 <= _YEAR_2100)
        problems.append(
            (f"time_in_{finer}", wrong, "time", f"time_unit is {unit!r}, this looks like {finer!r}")
        )
    return seconds, [*problems, *_range_problems(seconds, "time")]


_FINER = {"s": "ms", "ms": "us", "us": "ns"}


def _range_problems(seconds: pl.Series, column: str) -> list[Problem]:
    return [
        ("time_negative", seconds < 0, column, "it must not lie before 1970"),
        ("time_after_2100", seconds > _YEAR_2100, column, "it must not lie after the year 2100"),
        ("time_missing", seconds.is_null(), column, "every row needs one"),
    ]


def _with_fractions(values: pl.Series, number: pl.Series) -> pl.Series:
    """Fills in decimal fractions, rounded down; whole numbers beyond 64 bits stay null."""
    fraction = values.str.contains(r"^[+-]?[0-9]+\.[0-9]*$|^[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+$")
    floored = values.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False)
    return pl.select(
        pl.when(number.is_null() & fraction).then(floored).otherwise(number)
    ).to_series()


def _iso_seconds(values: pl.Series) -> pl.Series:
    """Seconds of ISO 8601 text; without an offset it is UTC."""
    text = values.str.replace(" ", "T", literal=True)
    parsed = None
    for form in ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        some = text.str.strptime(
            pl.Datetime("us", "UTC") if form.endswith("z") else pl.Datetime("us"),
            form,
            strict=False,
        ).dt.epoch("s")
        parsed = some if parsed is None else parsed.fill_null(some)
        if not parsed.null_count():
            break
    assert parsed is not None
    return parsed
