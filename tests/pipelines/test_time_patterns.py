"""Times after a pattern, what a pattern must have, and which one is proposed for a text."""

import calendar
import datetime
import json
import sqlite3

import numpy as np
import polars as pl
import pytest

from pipelines import sources
from pipelines.sources.time_patterns import check_pattern, read_pattern
from pipelines.tables.bad_rows import BadRows
from tests.pipelines.source_layouts import seconds

# Each tells a time to the second, or only the day.
PATTERNS = [
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %I:%M:%S %p",
    "%a %b %d %H:%M:%S %z %Y",
    "%A, %d. %B %Y %H:%M:%S",
    "%Y%m%d%H%M%S",
    "%y%m%dT%H%M%SZ",
    "%d/%b/%Y:%H:%M:%S %z",
    "%Y-%j %H.%M.%S",
    "(%Y) [%m] {%d} 100%% %H#%M-%S",
    "%D %T",
]
DAYS = ["%d.%m.%y", "%Y%j", "%F"]


def read(texts, pattern):
    """Seconds, and nanoseconds behind them."""
    whole, rest = read_pattern(pl.Series(texts, dtype=pl.String), pattern)
    return list(zip(whole, [0] * len(whole) if rest is None else rest, strict=True))


@pytest.mark.parametrize("pattern", PATTERNS + DAYS)
def test_what_a_pattern_writes_it_reads(pattern):
    random = np.random.default_rng(0)
    times = random.integers(0, 1_600_000_000, 200)
    if pattern in DAYS:
        times = times // 86_400 * 86_400
    zone = datetime.timezone(datetime.timedelta(hours=-7, minutes=-30))
    zone = zone if "%z" in pattern else datetime.UTC
    texts = [datetime.datetime.fromtimestamp(time, zone).strftime(pattern) for time in times]
    assert [found[0] for found in read(texts, pattern)] == times.tolist()


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("%d/%m/%Y %H:%M", " 3/7/2017  9:05 ", "2017-07-03T09:05:00"),
        ("%a %b %e %H:%M:%S %Y", "SUN jul  3 07:26:12 2017", "2017-07-03T07:26:12"),
        ("%B %d, %Y %I:%M %p", "July 3, 2017 12:05 a.m.", "2017-07-03T00:05:00"),
        ("%b %d, %Y %I:%M %p", "May 3, 2017 12:05\u202fPM", "2017-05-03T12:05:00"),
        ("%d.%m.%y", "01.02.69", "1969-02-01T00:00:00"),
        ("%d.%m.%y", "01.02.68", "2068-02-01T00:00:00"),
        ("%Y-%j", "2016-366", "2016-12-31T00:00:00"),
        ("%Y-%m-%d %H:%M:%S %z %Z", "2017-07-03 07:26:12 +0000 UTC", "2017-07-03T07:26:12"),
        ("%Y-%m-%d %H:%M:%S %Z", "2017-07-03 07:26:12 GMT", "2017-07-03T07:26:12"),
        ("%Y-%m-%d %H:%M%z", "2017-07-03 07:26+05:45", "2017-07-03T01:41:00"),
        ("%Y-%m-%d %H:%M%z", "2017-07-03 07:26Z", "2017-07-03T07:26:00"),
    ],
)
def test_a_pattern_is_read_as_it_is_meant(pattern, text, expected):
    moment = datetime.datetime.fromisoformat(expected).replace(tzinfo=datetime.UTC)
    assert read([text], pattern) == [(int(moment.timestamp()), 0)]


def test_a_fraction_keeps_its_digits_and_names_are_english_everywhere(monkeypatch):
    # What a German locale makes of them.
    monkeypatch.setattr(calendar, "month_abbr", ["", "Jan", "Feb", "Mär", "Apr", "Mai", "Jun"])
    monkeypatch.setattr(calendar, "day_abbr", ["Mo", "Di", "Mi", "Do", "Fr", "Sa", "So"])
    texts = ["Wed 03 May 2017 0:0:1.5", "Mi 03 Mai 2017 0:0:1.5", "Wed 3 may 2017 0:0:1.0000000019"]
    assert read(texts, "%a %d %b %Y %H:%M:%S.%f") == [
        (1_493_769_601, 500_000_000),
        (None, None),
        (1_493_769_601, 1),
    ]


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        (
            "%d/%m/%Y %H:%M",
            [
                "30/02/2017 10:00",
                "12/13/2017 10:00",
                "00/01/2017 10:00",
                "1/1/2017 24:00",
                "1/1/2017 10:60",
                "1/1/17 10:00",
                "1/1/2017 10:00:00",
                "x 1/1/2017 10:00",
                "1/1/2017 10:00\n1/1/2017 10:00",
                "١/1/2017 10:00",
                "",
            ],
        ),
        ("%Y%m%d", ["2017711", "201707011", "20170229"]),
        ("%Y-%j", ["2017-366", "2017-0", "2016-367"]),
        ("%F %I:%M %p", ["2017-01-01 13:00 PM", "2017-01-01 0:00 AM", "2017-01-01 1:00"]),
        ("%F %T %Z", ["2017-01-01 10:00:00 EST", "2017-01-01 10:00:00 +0100"]),
        ("%F %T %z", ["2017-01-01 10:00:00 +2400", "2017-01-01 10:00:00 +0160"]),
        ("%F %T %z %Z", ["2017-01-01 10:00:00 +0100 UTC"]),
    ],
)
def test_what_does_not_fit_a_pattern_is_no_time(pattern, texts):
    assert [found[0] for found in read(texts, pattern)] == [None] * len(texts)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("%d/%m %H:%M", "it has no year"),
        ("%Y", "it has no day"),
        ("%m/%Y", "it has no day"),
        ("%d %Y", "'%d', the day of the month, says nothing without '%m' or '%b'"),
        ("%Y-%M-%d", "'%M', the minute, says nothing without '%H' or '%I'"),
        ("%Y-%m-%d %H:%m", "'%m' says what stands there already"),
        ("%m/%d/%y %D", "'%m' says what stands there already"),
        ("%Y-%m-%d %B", "'%m' and '%b' say the same twice"),
        ("%Y-%j-%d", "'%j' and '%d' say the same twice"),
        ("%F %I:%M", "'%I', the hour from 1 to 12, says nothing without '%p'"),
        ("%F %H:%M %p", "'%p', AM or PM, says nothing without '%I'"),
        ("%F %H:%M.%f", "'%f', the fraction of a second, says nothing without '%S'"),
        ("%F %Q", "'%Q' is not a known directive; these are: .*%Y"),
        ("%F %", "'%' is not a known directive"),
        ("%F %c", "'%c' is not a known directive"),
        ("%s", "'%s' is not a known directive"),
        ("100%", "'%' is not a known directive"),
    ],
)
def test_a_wrong_pattern_is_an_error_before_anything_is_read(pattern, message):
    config = {"name": "csv", "folder": "/nowhere", "interactions": "log.csv"}
    with pytest.raises(ValueError, match=rf"^time_unit is '{pattern}': {message}"):
        sources.load(config | {"time_unit": pattern})


def write_csv(folder, texts):
    lines = "".join(f'u,i,"{text}"\n' for text in texts)
    (folder / "log.csv").write_text(f"user,item,time\n{lines}")
    return {"name": "csv", "interactions": "log.csv"}


def write_jsonl(folder, texts):
    lines = [json.dumps({"user": "u", "item": "i", "time": text}) for text in texts]
    (folder / "log.jsonl").write_text("\n".join(lines))
    return {"name": "jsonl", "interactions": "log.jsonl"}


def write_parquet(folder, texts):
    frame = pl.DataFrame({"user": "u", "item": "i", "time": texts})
    frame.write_parquet(folder / "log.parquet")
    return {"name": "parquet", "interactions": "log.parquet"}


def write_sqlite(folder, texts):
    with sqlite3.connect(folder / "log.db") as connection:
        connection.execute("CREATE TABLE log (user, item, time)")
        rows = [("u", "i", text) for text in texts]
        connection.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)
    connection.close()
    return {"name": "sqlite", "interactions": "log.db", "table": "log"}


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet, write_sqlite])
def test_every_format_takes_a_pattern(tmp_path, write):
    source = write(tmp_path, ["23/07/2017 10:00", "23/07/2017", "01/01/1970 00:00", "1/1/1969 9:0"])
    source |= {"folder": str(tmp_path), "time_unit": "%d/%m/%Y %H:%M"}
    bad_rows = BadRows("skip")
    chunks = [chunk for part in sources.load(source).parts for chunk in part.chunks(bad_rows)]
    assert [seconds(time) for chunk in chunks for time in chunk["time"]] == [1_500_804_000, 0]
    assert bad_rows.counts == {"not_a_time": 1, "negative_time": 1}


@pytest.mark.parametrize(
    ("texts", "unit", "message"),
    [
        (["2019-10-01 00:00:00 UTC"], "s", "in numbers; for dates set time_unit='iso'"),
        (
            ["Sun Jul 23 07:26:12 -0700 2017"],
            "s",
            "in numbers; set time_unit='%a %b %d %H:%M:%S %z %Y'",
        ),
        (["23/07/2017 10:00"], "iso", "in ISO 8601; set time_unit='%d/%m/%Y %H:%M'"),
        (["07/23/2017 10:00"], "iso", "in ISO 8601; set time_unit='%m/%d/%Y %H:%M'"),
        (
            ["03/07/2017 10:00"],
            "ms",
            "set time_unit='%d/%m/%Y %H:%M' or '%m/%d/%Y %H:%M': nothing tells which number is the",
        ),
        # A later row tells.
        (["03/07/2017 10:00", "03/23/2017 1:00"], "s", "set time_unit='%m/%d/%Y %H:%M'"),
        (["Jul  3, 2017 7:26 AM"], "s", "set time_unit='%b %d, %Y %I:%M %p'"),
        (["23-Jul-17"], "s", "set time_unit='%d-%b-%y'"),
        (["23/Jul/2017:07:26:12 -0700"], "s", "set time_unit='%d/%b/%Y:%H:%M:%S %z'"),
        (["Sun, 23 Jul 2017 07:26:12 GMT"], "s", "set time_unit='%a, %d %b %Y %H:%M:%S %Z'"),
        (["23.07.2017 10:00:12,345"], "iso", "set time_unit='%d.%m.%Y %H:%M:%S,%f'"),
        (["2017/07/23 10:00"], "iso", "set time_unit='%Y/%m/%d %H:%M'"),
        (["2017-07-23"], "%d/%m/%Y", "after '%d/%m/%Y'; for dates set time_unit='iso'"),
        (["1500804000"], "%d/%m/%Y", "after '%d/%m/%Y'; for numbers set time_unit='s' or 'ms'"),
        (["07/23/2017"], "%d/%m/%Y", "after '%d/%m/%Y'; set time_unit='%m/%d/%Y'"),
        (["yesterday"], "s", "(time_unit is 's'; it may be a strptime pattern, such as '%d/%m/%Y"),
        ([" " * 60_000 + "x" + " " * 60_000 + "y"], "iso", "it may be a strptime pattern"),
        ([""], "iso", "which is not a time (time_unit is 'iso')"),
    ],
)
def test_what_is_no_time_says_which_pattern_it_has(tmp_path, texts, unit, message):
    source = write_jsonl(tmp_path, texts)
    source |= {"folder": str(tmp_path), "time_unit": unit}
    with pytest.raises(ValueError, match="line 1: 'time' is ") as caught:
        list(sources.load(source).parts[0].chunks(BadRows()))
    assert message in str(caught.value)
    if "set time_unit='%" in message and " or " not in message:
        pattern = message.partition("set time_unit='")[2][:-1]
        check_pattern(pattern)
        assert None not in [found[0] for found in read(texts, pattern)]
