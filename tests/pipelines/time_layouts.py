"""The same events with their times written in every way that a log may have them."""

import dataclasses
import datetime
import json
import sqlite3
from collections.abc import Callable
from typing import Any

import polars as pl

from pipelines.tables.interactions import TICKS_PER_SECOND

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ZONES = [0, 7200, -18_000, 20_700]  # seconds ahead of UTC


@dataclasses.dataclass(frozen=True)
class TimeLayout:
    """A way of writing times.

    Attributes:
        name: of the layout.
        unit: the finest that it can hold.
        write: `write(folder, users, items, ticks)` writes the log, with times in nanoseconds, and
            returns the source's config.
    """

    name: str
    unit: str
    write: Callable[..., dict[str, Any]]

    @property
    def step(self) -> int:
        """Nanoseconds between two times that it tells apart."""
        return TICKS_PER_SECOND // PER_SECOND[self.unit]


def decimal_text(ticks, unit="s"):
    """A number of the unit, without zeros at the end."""
    ticks_a_unit = TICKS_PER_SECOND // PER_SECOND[unit]
    whole, rest = divmod(ticks, ticks_a_unit)
    return f"{whole}.{rest:0{len(str(ticks_a_unit)) - 1}}".rstrip("0").rstrip(".")


def iso_text(ticks, place=0):
    """ISO 8601 in one of some time zones and spellings."""
    ahead = ZONES[place % len(ZONES)]
    whole, rest = divmod(ticks, TICKS_PER_SECOND)
    moment = datetime.datetime.fromtimestamp(whole + ahead, datetime.UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S" if place % 3 else "%Y-%m-%d %H:%M:%S")
    fraction = f".{rest:09}".rstrip("0").rstrip(".")
    if not ahead:
        return text + fraction + ("", "Z", " UTC")[place % 3]
    sign, minutes = ("-" if ahead < 0 else "+"), abs(ahead) // 60
    zone = f"{sign}{minutes // 60:02}{':' if place % 2 else ''}{minutes % 60:02}"
    return text + fraction + zone


def write_text(texts, unit, name="csv"):
    def write(folder, users, items, ticks):
        times = [texts(tick, place) for place, tick in enumerate(ticks)]
        rows = list(zip(users, items, times, strict=True))
        config = {"name": name, "folder": str(folder), "interactions": f"log.{name}"}
        if name == "recbole":
            header = ("user_id:token", "item_id:token", "timestamp:float")
            lines = ["\t".join(map(str, row)) for row in [header, *rows]]
        elif name in ("jsonl", "pylines"):
            lines = [f'{{"user": "{u}", "item": "{i}", "time": {time}}}' for u, i, time in rows]
        else:
            lines = [",".join(map(str, row)) for row in [("user", "item", "time"), *rows]]
        (folder / f"log.{name}").write_text("".join(f"{line}\n" for line in lines))
        return config | {"time_unit": unit}

    return write


def write_series(series, unit="s"):
    """Parquet with a column of times."""

    def write(folder, users, items, ticks):
        frame = pl.DataFrame({"user": users, "item": items, "time": series(ticks)})
        frame.write_parquet(folder / "log.parquet", row_group_size=7)
        config = {"name": "parquet", "folder": str(folder), "interactions": "log.parquet"}
        return config | {"time_unit": unit}

    return write


def moments(unit, zone=None):
    def series(ticks):
        numbers = pl.Series([tick * PER_SECOND[unit] // TICKS_PER_SECOND for tick in ticks])
        values = numbers.cast(pl.Datetime(unit))
        if zone is None:
            return values
        return values.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)

    return series


def write_sqlite(value, unit):
    def write(folder, users, items, ticks):
        (folder / "log.db").unlink(missing_ok=True)
        with sqlite3.connect(folder / "log.db") as connection:
            connection.execute("CREATE TABLE log (user, item, time)")
            values = [value(tick, place) for place, tick in enumerate(ticks)]
            rows = zip(users, items, values, strict=True)
            connection.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)
        connection.close()
        config = {"name": "sqlite", "folder": str(folder), "interactions": "log.db"}
        return config | {"table": "log", "time_unit": unit}

    return write


def write_retailrocket(folder, users, items, ticks):
    rows = zip(ticks, users, items, strict=True)
    lines = [f"{tick // 10**6},{user},view,{item},\n" for tick, user, item in rows]
    header = "timestamp,visitorid,event,itemid,transactionid\n"
    (folder / "events.csv").write_text(header + "".join(lines))
    config = {"name": "retailrocket", "folder": str(folder)}
    return config | {"properties": "", "categories": ""}


def whole(unit):
    return lambda tick, place: tick * PER_SECOND[unit] // TICKS_PER_SECOND


def fraction_of(unit):
    return lambda tick, place: decimal_text(tick, unit)


def seconds_as(tick, place):
    """A float, a text, or a whole number where it is one, as SQLite may mix them."""
    if tick % TICKS_PER_SECOND == 0:
        return tick // TICKS_PER_SECOND
    return float(decimal_text(tick)) if place % 2 else decimal_text(tick)


def pattern_text(tick, place):
    ahead = ZONES[place % len(ZONES)]
    zone = datetime.timezone(datetime.timedelta(seconds=ahead))
    moment = datetime.datetime.fromtimestamp(tick // TICKS_PER_SECOND, zone)
    fraction = f"{tick % TICKS_PER_SECOND:09}".rstrip("0") or "0"
    return moment.strftime(f"%a %d %b %Y %I:%M:%S.{fraction} %p %z")


TIME_LAYOUTS = [
    *(TimeLayout(f"csv_{unit}", unit, write_text(whole(unit), unit)) for unit in PER_SECOND),
    *(
        TimeLayout(f"csv_fraction_{unit}", "ns", write_text(fraction_of(unit), unit))
        for unit in ("s", "ms", "us")
    ),
    TimeLayout("csv_exponent", "ns", write_text(lambda tick, place: f"{tick}e-9", "s")),
    TimeLayout("csv_iso", "ns", write_text(iso_text, "iso")),
    TimeLayout("csv_pattern", "ns", write_text(pattern_text, "%a %d %b %Y %I:%M:%S.%f %p %z")),
    TimeLayout("jsonl_ns", "ns", write_text(whole("ns"), "ns", "jsonl")),
    TimeLayout("jsonl_ms", "ms", write_text(whole("ms"), "ms", "jsonl")),
    TimeLayout("jsonl_fraction", "ns", write_text(fraction_of("s"), "s", "jsonl")),
    TimeLayout(
        "jsonl_iso",
        "ns",
        write_text(lambda tick, place: json.dumps(iso_text(tick, place)), "iso", "jsonl"),
    ),
    # Python's floats have room for microseconds.
    TimeLayout("pylines", "us", write_text(fraction_of("s"), "s", "pylines")),
    TimeLayout("recbole", "ns", write_text(fraction_of("s"), "s", "recbole")),
    TimeLayout("retailrocket", "ms", write_retailrocket),
    *(
        TimeLayout(f"parquet_{unit}", unit, write_series(moments(unit)))
        for unit in ("ms", "us", "ns")
    ),
    TimeLayout("parquet_zone", "ns", write_series(moments("ns", "Asia/Kathmandu"))),
    # A float of 64 bits has room for microseconds.
    TimeLayout(
        "parquet_float",
        "us",
        write_series(lambda ticks: [float(decimal_text(tick)) for tick in ticks]),
    ),
    TimeLayout(
        "parquet_decimal",
        "ns",
        write_series(lambda ticks: pl.Series(map(decimal_text, ticks)).cast(pl.Decimal(20, 9))),
    ),
    TimeLayout("sqlite_us", "us", write_sqlite(whole("us"), "us")),
    TimeLayout("sqlite_mixed", "us", write_sqlite(seconds_as, "s")),
    TimeLayout("sqlite_iso", "ns", write_sqlite(iso_text, "iso")),
]
