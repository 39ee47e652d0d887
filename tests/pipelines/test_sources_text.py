"""What stands in text files: quotes, line ends, encodings, headers, and mistakes in JSON."""

import gzip
import pathlib
import re
from fractions import Fraction

import numpy as np
import pytest
import zstandard

from pipelines import sources
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.sources.own_log import LogColumns, TablePart
from pipelines.tables import CsvTable
from pipelines.tables import table as sizes
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import TICKS_PER_SECOND
from pipelines.tables.text_file import text_blocks
from tests.pipelines import example_source
from tests.pipelines.source_layouts import seconds

HEAD = "user,item,time\n"


@pytest.fixture
def read(tmp_path):
    """Reads text as a log: (user, item, time, line) of all rows, and the counts of bad ones."""

    def read(data, action="skip", name="csv", **fields):
        data = data.encode() if isinstance(data, str) else data
        log = f"log.{name}"
        (tmp_path / log).write_bytes(data)
        config = {"name": name, "folder": str(tmp_path), "interactions": log, **fields}
        bad_rows = BadRows(action)
        raw = sources.load(config, bad_rows)
        chunks = [chunk for part in raw.parts for chunk in part.chunks(bad_rows)]
        rows = [row for c in chunks for row in c.select("user", "item", "time", "line").rows()]
        rows = [(user, item, seconds(time), line) for user, item, time, line in rows]
        return rows, bad_rows.counts

    return read


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('a,"x ""y"" z",1\n', [("a", 'x "y" z', 1, 2)]),
        ('"a,b",x,1\nc,y,2\n', [("a,b", "x", 1, 2), ("c", "y", 2, 3)]),
        ('a,5" wide,1\nb,y,2', [("a", '5" wide', 1, 2), ("b", "y", 2, 3)]),
        ("a,x,1\n\n\nb,y,2\n\n", [("a", "x", 1, 2), ("b", "y", 2, 5)]),
        ("a,x,1\r\nb,y,2\r\n", [("a", "x", 1, 2), ("b", "y", 2, 3)]),
        ('" a ", x,1\nb,y ,2\n', [("a", "x", 1, 2), ("b", "y", 2, 3)]),
        (
            "a,x,1.0\nb,y,2.9\nc,z,+3\n d,w, 4 \n",
            [(*"ax", 1, 2), (*"by", Fraction("2.9"), 3), (*"cz", 3, 4), (*"dw", 4, 5)],
        ),
        ("a,x,1.5e3\nb,y,15e-1\nc,z,.5\n", [(*"ax", 1500, 2), (*"by", 1.5, 3), (*"cz", 0.5, 4)]),
    ],
)
def test_what_is_legal_csv_is_read_as_it_is_meant(read, text, rows):
    found, counts = read(HEAD + text, "error")
    assert found == rows
    assert (
        len(found) == text.count("\n", 0, -1) + 1 - text.count("\n\n") * (len(rows) < len(found))
        or found == rows
    )
    assert counts == {}


def test_quoted_line_ends_are_legal_in_text_and_lines_are_counted_on(read):
    text = 'user,item,time,note\na,x,1,"one\n\ntwo, ""three""\n"\nb,y,2,"x"\nc,z,3,\n'
    expected = [("a", "x", 1, 2), ("b", "y", 2, 6), ("c", "z", 3, 7)]
    assert read(text, "error") == (expected, {})
    assert read(text.replace("\n", "\r\n"), "error") == (expected, {})


def test_a_quote_that_is_lost_costs_its_row_and_no_other(read):
    lines = [f"u{at},i{at},{at}\n" for at in range(9)]
    lines[3] = 'u3,"i3,3\n'
    rows, counts = read(HEAD + "".join(lines))
    assert [row[3] for row in rows] == [2, 3, 4, 6, 7, 8, 9, 10]
    assert counts == {"unclosed_quote": 1}
    message = r"log.csv, line 5: a quote opens a field and none closes it .*u3"
    with pytest.raises(ValueError, match=message):
        read(HEAD + "".join(lines), "error")
    lines[7] = 'u7,"i7",7\n'
    rows, counts = read(HEAD + "".join(lines))
    assert [row[3] for row in rows] == [2, 3, 4, 6, 7, 8, 9, 10]
    assert counts == {"misplaced_quote": 1}


def test_a_quote_that_is_never_closed_does_not_read_the_whole_file(read, monkeypatch):
    monkeypatch.setattr(sizes, "MAX_FIELD_CHARS", 100)
    lines = [f"u{at},i{at},{at}\n" for at in range(50)]
    lines[3] = 'u3,"i3,3\n'
    with pytest.raises(ValueError, match=r"line 5: .* none closes it in the \d\d? lines"):
        read(HEAD + "".join(lines), "error")
    assert len(read(HEAD + "".join(lines))[0]) == 49


@pytest.mark.parametrize(
    ("text", "line", "reason", "message"),
    [
        ("a,x\n", 2, "wrong_number_of_fields", "2 fields instead of 3 in 'a,x'"),
        ("a,x,1\na,x,1,2\n", 3, "wrong_number_of_fields", "4 fields instead of 3"),
        ('a,x,1\n"b\nc",x,1\n', 3, "control_character", r"'b\\nc', with a line end inside"),
        ("a,x,1\na\rb,x,1\n", 3, "control_character", r"'a\\rb', with a control character"),
        ("a,x,1\n\x00,x,1\n", 3, "control_character", r"'\\x00'"),
        ("a,x,1\nb,\x85,1\n", 3, "control_character", r"'\\x85'"),
        ('a,x,1\n"b"b,x,1\n', 3, "misplaced_quote", "does not end at its quote"),
    ],
)
def test_a_row_that_does_not_parse_is_named(read, text, line, reason, message):
    with pytest.raises(ValueError, match=rf"^log.csv, line {line}: .*{message}"):
        read(HEAD + text, "error")
    rows, counts = read(HEAD + text)
    assert counts[reason] == 1
    assert all(row[:3] == ("a", "x", 1) for row in rows)


def test_encodings(read):
    latin = f"{HEAD}Zoë,café,1\nann,b,2\n".encode("latin-1")
    message = r"line 2: byte 3 of the line, 0xeb, is not UTF-8; .* encoding='latin-1'"
    with pytest.raises(ValueError, match=message):
        read(latin, "error")
    assert read(latin) == ([("ann", "b", 2, 3)], {"not_utf8": 1})
    both = [("Zoë", "café", 1, 2), ("ann", "b", 2, 3)]
    assert read(latin, "error", encoding="latin-1") == (both, {})
    text = f"{HEAD}Zoë,café,1\nann,b,2\n"
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "cp1252"):
        assert read(text.encode(encoding), "error", encoding=encoding) == (both, {})
    assert read(text.encode("utf-8-sig"), "error") == (both, {})
    with pytest.raises(ValueError, match=r"mark of UTF-16; set encoding='utf-16'"):
        read(text.encode("utf-16"))
    with pytest.raises(ValueError, match="encoding is 'latin-9000', which is not known"):
        read(text, encoding="latin-9000")
    with pytest.raises(ValueError, match="is not text in encoding 'utf-16'"):
        read(text.encode("utf-16")[:-1], encoding="utf-16")
    broken = "user,item,time\na,b,1\n".encode("cp1252") + b"\x81,b,2\n"  # 0x81 is nothing there
    assert read(broken, encoding="cp1252") == ([("a", "b", 1, 2)], {"not_utf8": 1})


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("user,item\na,b\n", {}, "no column 'time', which the log needs; it has 'user', 'item'"),
        ("user,item,user,time\na,b,c,1\n", {}, "2 columns are called 'user'"),
        ("user,item,time\n", {"item": "user"}, "they must be different"),
        ("user,item,time\n", {"user": ""}, "source.user is empty"),
        ("user,item,time\n", {"delimiter": "\n"}, "it must be one ASCII"),
        ("user,item,time\n", {"delimiter": '"'}, "the quote must not be part of"),
        ("user,item,time\n", {"time_unit": "h"}, "time_unit is 'h'; it must be one of 's', 'ms'"),
        ("user,item,time\n", {"time_unit": "h"}, "or a strptime pattern such as '%d/%m/%Y %H:%M'"),
        ("user,item,time\n", {"time_unit": "%H:%M"}, "time_unit is '%H:%M': it has no year"),
        ("user,item,time\n", {"event": "type"}, "an event column needs its event types"),
        ("user,item,time\n", {"events": "view=1"}, "an event column needs its event types"),
        ("u,i,t,e\n", {"event": "e", "events": "a=-1"}, "gives 'a' the weight -1.0"),
        ("u,i,t,e\n", {"event": "e", "events": "a=nan"}, "gives 'a' the weight nan"),
        ("u,i,t,e\n", {"event": "e", "events": "a=0"}, "no type has a weight above 0"),
        ("u,i,t,e\n", {"event": "e", "events": "a"}, "text such as 'view=1,cart=3'"),
        ("u,i,t\n", {"text": "a,,b"}, "must be a list of names"),
        ("u,i,t\n", {"attributes": "a,a"}, "a name stands there twice"),
        ("user,item,time\ra,b,1\r", {}, "line 1: a carriage return stands in the header"),
        ('"user,item,time\n', {}, "line 1: the header's quotes do not fit"),
        (b"us\xe9r,item,time\n", {}, "line 1: byte 3 of the line, 0xe9, is not UTF-8"),
        ("user,item,time\n", {"interactions": ""}, "no file is named to read the log from"),
        ("user,item,time\n", {"interactions": "*.tsv"}, r"\*.tsv: no such file"),
        (HEAD, {"interactions": "."}, "is a folder; name its files"),
        (HEAD, {"title": "name"}, "source.title is 'name', but source.catalogue names no file"),
        (HEAD, {"catalogue": "items.xml"}, "items.xml: no such file; the catalogue is read"),
        (HEAD, {"catalogue": "log.csv", "catalogue_format": "xml"}, "catalogue_format is 'xml'"),
        (HEAD, {"catalogue": "log.csv", "title": "name"}, "'name', which the catalogue needs"),
    ],
)
def test_what_can_be_known_before_reading_is_an_error_at_once(read, text, fields, message):
    with pytest.raises(ValueError, match=message):
        read(text, **fields)


def test_other_delimiters_headers_and_quotes(read):
    assert read("a\tx\t1\n", "error", header="user,item,time", delimiter="\\t")[0] == [
        ("a", "x", 1, 1)
    ]
    assert read("user;item;time\na;'x;y';1\n", "error", delimiter=";", quote="'")[0] == [
        ("a", "x;y", 1, 2)
    ]
    assert read('user|item|time\na|"x|1\n', "error", delimiter="|", quote="")[0] == [
        ("a", '"x', 1, 2)
    ]


S = 1_500_000_000


@pytest.mark.parametrize(
    ("unit", "texts", "expected"),
    [
        ("s", ["1500000000", "1500000000.999", "1500000000.0000000019"], [0, 999_000_000, 1]),
        ("s", ["15e8", "1500000000123456789e-9", "+1.5e+9"], [0, 123_456_789, 0]),
        ("s", ["1499999999." + "9" * 99, "1499999999." + "9" * 99 + "e0"], [-1, -1]),
        ("ms", ["1500000000999", "1500000000000.0000019"], [999_000_000, 1]),
        ("us", ["1500000000999999", "1500000000999999.1239"], [999_999_000, 999_999_123]),
        ("ns", ["1500000000999999999", "1500000000000000001.9"], [999_999_999, 1]),
        (
            "iso",
            [
                "2017-07-14T02:40:00",
                "2017-07-14 02:40:00",
                "2017-07-14T02:40:00Z",
                "2017-07-14t02:40:00z",
                "2017-07-14 02:40:00 UTC",
                "2017-07-14 02:40:00 GMT",
                "2017-07-14 02:40:00 +0000 UTC",
                "2017-07-14 02:40Z",
                "2017-07-14T04:40:00+02:00",
                "2017-07-13 21:40:00 -0500",
                "2017-07-14 08:10:00+0530",
                "2017-07-14 04:40:00+02",
                "2017-07-14 04:40 +02:00",
                "20170714T024000",
                "20170714T044000+0200",
            ],
            [0] * 15,
        ),
        (
            "iso",
            [
                "2017-07-14T02:40:00.5",
                "2017-07-14 02:40:00,25",
                "2017-07-14T04:40:00.123456789+02:00",
                "2017-07-14 02:40:00.1234567891 UTC",
                "2017-07-14T02:40:00.000000001Z",
                "20170714T024000.000000001",
                "20170714T024000,1234567Z",
            ],
            [500_000_000, 250_000_000, 123_456_789, 123_456_789, 1, 1, 123_456_700],
        ),
        ("iso", ["2017-07-14", "20170714", "2017-07-14Z"], [-9600 * 10**9] * 3),
    ],
)
def test_times_of_every_unit_keep_all_they_say(read, unit, texts, expected):
    text = "".join(f'a,b,"{text}"\n' for text in texts)
    rows, _ = read(HEAD + text, "error", time_unit=unit)
    assert [row[2] for row in rows] == [seconds(S * TICKS_PER_SECOND + more) for more in expected]


@pytest.mark.parametrize(
    ("unit", "text", "reason", "message"),
    [
        ("s", "1500000000000", "time_in_another_unit", "2017-07-14 in milliseconds, but after the"),
        ("ms", "1500000000", "time_in_another_unit", "2017-07-14 in seconds, but 1970-01-18 in"),
        ("us", "1500000000000", "time_in_another_unit", "in milliseconds, but 1970-01-18"),
        ("s", "5000000000", "time_after_2100", "after the year 2100"),
        ("s", "9" * 40, "time_after_2100", "after the year 2100"),
        ("s", "-0.5", "negative_time", "before 1970"),
        ("s", "inf", "not_a_time", "not a time"),
        ("s", "0x10", "not_a_time", "not a time"),
        ("s", "1_000", "not_a_time", "not a time"),
        ("s", "٣", "not_a_time", "not a time"),
        ("s", "2017-07-14", "not_a_time", "for dates set time_unit='iso'"),
        ("iso", "1500000000", "not_a_time", "for numbers set time_unit='s' or 'ms'"),
        ("iso", "2017-13-14", "not_a_time", "not a time"),
        ("iso", "2017-07-14-05:00", "not_a_time", "not a time"),
        ("iso", "2017-07-14 02:40:00+02:00 UTC", "not_a_time", "not a time"),
        ("iso", "2017-07-14 02:40:00 +2500", "not_a_time", "not a time"),
        ("iso", "2017-07-14 02:40:00 CET", "not_a_time", "not a time"),
        ("iso", "2017-07-14 02:40:00.", "not_a_time", "not a time"),
        ("iso", "1969-12-31", "negative_time", "before 1970"),
        ("iso", "2101-01-01", "time_after_2100", "after the year 2100"),
    ],
)
def test_a_wrong_time_says_why(read, unit, text, reason, message):
    text = f"{HEAD}a,b,{text}\n"
    assert read(text, time_unit=unit) == ([], {reason: 1})
    with pytest.raises(ValueError, match=rf"log.csv, line 2: 'time' is .*{message}"):
        read(text, "error", time_unit=unit)


def test_a_damaged_compressed_file_is_an_error_even_where_bad_rows_are_left_out(read):
    rows = "".join(f"u{at},i{at * 7919 % 1009},{at}\n" for at in range(3000))
    for data in (
        gzip.compress((HEAD + rows).encode(), mtime=0),
        zstandard.ZstdCompressor(write_checksum=True).compress((HEAD + rows).encode()),
    ):
        middle = len(data) // 2
        damaged = data[:middle] + bytes(64) + data[middle + 64 :]
        with pytest.raises(ValueError, match=r"log.csv: the compressed file is damaged"):
            read(damaged)
        assert len(read(data, "error")[0]) == 3000
        assert len(read(data + data, "skip")[0]) == 6000  # and a second header, a bad row


def test_a_wrong_ending_of_a_compressed_file_is_an_error(tmp_path):
    for name, message in (("a.csv.gz", "named wrongly"), ("a.csv.bz2", r"\.bz2 is not read")):
        (tmp_path / name).write_text(HEAD)
        with pytest.raises(ValueError, match=message):
            list(text_blocks(str(tmp_path / name)))


def test_a_line_without_end_is_an_error_before_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(sizes, "BLOCK_BYTES", 100)
    (tmp_path / "log.csv").write_text(HEAD + "a" * 2000)
    with pytest.raises(ValueError, match="line 2: longer than"):
        list(text_blocks(str(tmp_path / "log.csv")))


def test_both_ways_of_reading_csv_agree_on_clean_files(tmp_path):
    rng = np.random.default_rng(0)
    words = ["a", "b c", '"q, ""r"""', '""', "é", "", "x" * 50, '"two\nlines"', "😀", '"\r\n"']
    for seed in range(8):
        lines = [
            f"u{rng.integers(50)},{words[rng.integers(len(words))]},i{rng.integers(9)},{at}\n"
            for at in range(300)
        ]
        if seed % 2:
            lines = [line for line in lines if "\n" not in line[:-1] and "\r" not in line]
        path = tmp_path / "log.csv"
        path.write_bytes(("user,note,item,time\n" + "".join(lines)).encode())
        found = []
        for is_exact in (False, True):
            part = TablePart(CsvTable(str(path), "log.csv", is_exact=is_exact), LogColumns())
            found.append([row for c in part.chunks(BadRows()) for row in c.rows()])
        assert found[0] == found[1]
        assert len(found[0]) == len(lines)


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        ('{"user": "a"', "not_json", "not a JSON object"),
        ("[1, 2]", "not_json", "it is a list"),
        ("7", "not_json", "it is a int"),
        ('{"user": NaN, "item": 1, "time": 1}', "not_json", "NaN is not a JSON value"),
        ("[" * 100_000, "not_json", "recursion|nesting"),
        ('{"user": "a", "item": 1, "item": 2, "time": 1}', "duplicate_key", "key 'item' is there"),
        ('{"user": "a", "item": 1.0, "time": 1}', "wrong_type", "'item' is 1.0; it must be a text"),
        ('{"user": true, "item": 1, "time": 1}', "wrong_type", "'user' is True"),
        ('{"user": {"id": 1}, "item": 1, "time": 1}', "wrong_type", "'user' is {'id': 1}"),
        ('{"user": ["a"], "item": 1, "time": 1}', "wrong_type", r"'user' is \['a'\]"),
        ('{"user": "a", "item": 1, "time": true}', "wrong_type", "'time' is True"),
        ('{"user": null, "item": 1, "time": 1}', "empty_id", "'user' is missing"),
        ('{"item": 1, "time": 1}', "empty_id", "'user' is missing"),
        ('{"user": "a", "item": 1}', "not_a_time", "'time' is missing"),
        ('{"user": "\\ud800", "item": 1, "time": 1}', "not_unicode", "it must be valid Unicode"),
        ('{"user": "\\u0000", "item": 1, "time": 1}', "control_character", "control character"),
    ],
)
def test_mistakes_in_json_lines(read, line, reason, message):
    good = '{"user": "b", "item": 2, "time": 2}\n'
    text = good + line + "\n" + good
    with pytest.raises(ValueError, match=rf"^log.jsonl, line 2: .*({message})"):
        read(text, "error", name="jsonl")
    assert read(text, name="jsonl") == ([("b", "2", 2, 1), ("b", "2", 2, 3)], {reason: 1})


def test_what_is_legal_json_is_read_as_it_is_meant(read):
    lines = [
        r"""{"user": "\ud83d\ude00 \"q\"", "item": 36893488147419103232, "time": 1.9, "x": {}}""",
        r""" {"time": "5", "x": [1, {"item": 2, "item": 3}], "user": 1, "item": "\u0031"}""",
        "",
        '{"user":"a","item":-7,"time":1e3}',
        '{"user":"user","item":"item","time":4}',
    ]
    rows, _ = read("\r\n".join(lines), "error", name="jsonl")
    assert rows == [
        ('😀 "q"', "36893488147419103232", Fraction("1.9"), 1),
        ("1", "1", 5, 2),
        ("a", "-7", 1000, 4),
        ("user", "item", 4, 5),
    ]
    with pytest.raises(ValueError, match=r"no column 'who', .*; it has 'user', 'item', 'time'"):
        read("\n".join(lines), "error", name="jsonl", user="who")


def test_items_come_with_text_lists_and_attributes_from_any_format(read, tmp_path):
    (tmp_path / "items.jsonl").write_text(
        '{"sku": 7, "name": " Seven ", "about": ["one", "two"], "tags": [["a", "b"], ["c"]]}\n'
        '{"sku": "x", "name": null, "about": "plain", "price": 9.5, "tags": "d|e"}\n'
    )
    (tmp_path / "log.csv").write_text(HEAD + "u,7,1\nu,x,2\nu,7,3\n")
    config = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv"}
    config |= {"catalogue": "items.jsonl", "item_id": "sku", "title": "name"}
    config |= {"text": "about,price", "attributes": "tags,price", "attribute_separator": "|"}
    items = sources.load(config).items
    assert items.rows() == [
        ("7", "Seven", "Seven\none\ntwo", ["tags=a", "tags=b", "tags=c"]),
        ("x", "", "plain\n9.5", ["tags=d", "tags=e", "price=9.5"]),
    ]
    (tmp_path / "items.jsonl").write_text('{"sku": 7, "name": {}, "about": 1}\n')
    with pytest.raises(ValueError, match=r"items.jsonl, line 1: 'name' is {}; it must be a text"):
        sources.load(config | {"text": "", "attributes": ""})


def test_recbole_headers_need_types_that_fit(read, tmp_path):
    with pytest.raises(ValueError, match=r"field 'item_id' has no type; .* NAME:TYPE"):
        read("user_id:token\titem_id\ttimestamp:float\n", name="recbole")
    with pytest.raises(ValueError, match=r"field 'item_id' is of type 'float'; it must be token"):
        read("user_id:token\titem_id:float\ttimestamp:float\na\t1\t1\n", name="recbole")
    with pytest.raises(ValueError, match="no column 'timestamp'"):
        read("user_id:token\titem_id:token\na\t1\n", name="recbole")


def test_retail_rocket_s_categories_bring_those_above_along(tmp_path):
    (tmp_path / "events.csv").write_text(
        "timestamp,visitorid,event,itemid,transactionid\n"
        "1433221332117,257597,view,355908,\n1433224214164,992329,transaction,248676,1\n"
    )
    (tmp_path / "item_properties_part1.csv").write_text(
        "timestamp,itemid,property,value\n1435460400000,460429,categoryid,1338\n"
        "1441508400000,355908,888,1116713 960601 n277.200\n1435460400000,355908,categoryid,9\n"
    )
    (tmp_path / "item_properties_part2.csv").write_text(
        "timestamp,itemid,property,value\n1433041200000,355908,categoryid,1016\n"
    )
    (tmp_path / "category_tree.csv").write_text("categoryid,parentid\n1338,5\n9,1338\n5,\n")
    config = {"name": "retailrocket", "folder": str(tmp_path), "text": "888"}
    raw = sources.load(config)
    assert raw.items.rows() == [
        ("248676", "", "", []),
        (
            "355908",
            "",
            "1116713 960601 n277.200",
            ["categoryid=9", "categoryid=1338", "categoryid=5"],
        ),
        ("460429", "", "", ["categoryid=1338", "categoryid=5"]),
    ]
    assert raw.interactions["event"].to_list() == [0, 2]
    assert len(raw.inputs) == 4
    (tmp_path / "category_tree.csv").write_text("categoryid,parentid\n1338,5\n5,1338\n")
    with pytest.raises(ValueError, match="in a circle: 1338 -> 5 -> 1338"):
        sources.load(config)
    (tmp_path / "category_tree.csv").write_text("categoryid,parentid\n5,\n5,7\n")
    with pytest.raises(
        ValueError, match=r"category_tree.csv, line 3: category '5' is listed already"
    ):
        sources.load(config)


def test_the_example_of_a_new_source_runs(tmp_path, monkeypatch):
    root = pathlib.Path(__file__).parent.parent.parent
    section = (root / "BUILD.md").read_text(encoding="utf-8").partition("## Add a source")[2]
    shown = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    example = pathlib.Path(example_source.__file__).read_text(encoding="utf-8")
    assert shown in ([], [example]), "BUILD.md shows another example than the one that runs here"
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\nbroken\n")
    monkeypatch.setitem(sources.SOURCES, "movielens", "tests.pipelines.example_source")
    config = {"source": {"name": "movielens", "folder": str(tmp_path)}, "split": "leave_one_out"}
    with pytest.raises(ValueError, match=r"ratings.dat, line 3: .*broken.* is not user::item"):
        prepare(config, tmp_path / "prepared")
    prepare(config | {"on_bad_rows": "skip"}, tmp_path / "prepared")
    assert Prepared.load(tmp_path / "prepared").raw_item_ids == ["1193", "661"]
