"""What files say is checked before it is used, and every error names the file."""

import io
import json
import math
import zipfile

import numpy as np
import pytest

from minirec import files
from minirec.files.schema import COUNT, NUMBER, SHA256, WHOLE, check

DEEP = "[" * 100_000
HOSTILE = {
    "no JSON": b'{"a": ',
    "nothing": b"",
    "deeper than the parser goes": DEEP.encode(),
    "deeper than what comes after goes": (b"[" * 900) + (b"]" * 900),
    "deep objects": b'{"a":' * 101 + b"1" + b"}" * 101,
    "5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "more than a float holds": b'{"a": ' + b"9" * 400 + b"}",
    "an infinite float": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "an infinity": b"[-Infinity]",
    "a field twice": b'{"a": 1, "b": {"c": 1, "c": 2}}',
    "half a character": b'["\\ud800"]',
    "half a character in a name": b'{"x": {"\\uDFFF": 1}}',
    "other bytes than UTF-8": b'["\xff"]',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_json_that_would_end_a_program_elsewhere_is_refused_by_name(tmp_path, content):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"value\.json: not a JSON file: .") as error:
        files.read_json(path)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)
    path.write_bytes(b'{"a": 1}\n' + content.replace(b"\n", b" ") + b"\n")
    if content:
        with pytest.raises(ValueError, match=r"value\.json, line 2: not JSON: ."):
            list(files.read_json_lines(path))


def test_json_is_read_with_a_byte_order_mark_whole_characters_and_long_numbers(tmp_path):
    path = tmp_path / "value.json"
    path.write_bytes(
        b"\xef\xbb\xbf" + b'{"a": "\\ud83d\\ude00 \xe2\x80\xa8", "b": 1' + b"0" * 30 + b"}"
    )
    assert files.read_json(path) == {"a": "\U0001f600 \u2028", "b": 10**30}
    path.write_bytes(b"[" * 100 + b"]" * 100)
    assert json.dumps(files.read_json(path)) == "[" * 100 + "]" * 100
    path.write_bytes(b"[NaN, 1e999]")
    assert math.isnan(files.read_json(path, foreign=True)[0])


def test_lines_end_where_a_line_ends_and_nowhere_else(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes('{"a": "one\u2028line\x85"}\r\n\n{"a": 2}\n{"a'.encode())
    assert list(files.read_json_lines(path, may_be_cut=True)) == [
        (1, {"a": "one\u2028line\x85"}),
        (3, {"a": 2}),
    ]
    with pytest.raises(ValueError, match=r"lines\.jsonl, line 4: not JSON"):
        list(files.read_json_lines(path))


SHAPE = {
    "name": str,
    "rows": [{"count": COUNT}],
    "metrics": {str: {str: NUMBER}},
    "best": (COUNT, None),
    "tuned?": bool,
    "seed": WHOLE,
    "split": (str, {"name": str}),
    "anything": object,
}
RIGHT = {
    "name": "x",
    "rows": [{"count": 0, "more": 1}],
    "metrics": {"model": {"hr@10": 0.5, "ndcg@10": 1}},
    "best": None,
    "seed": -1,
    "split": {"name": "y"},
    "anything": [],
}


def test_a_value_of_the_shape_passes():
    check(RIGHT, SHAPE, "file.json")
    check(RIGHT | {"best": 3, "tuned": True, "split": "y"}, SHAPE, "file.json")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": 3}, "file.json: name is 3; expected text"),
        ({"rows": {}}, "file.json: rows is {}; expected a list"),
        ({"rows": [{"count": 1}, {"count": True}]}, r"rows\[1\]\.count is True; expected a whole"),
        ({"rows": [{"count": -1}]}, r"rows\[0\]\.count is -1; expected a whole number from 0 on"),
        ({"rows": [{}]}, r"rows\[0\]\.count is missing; expected a whole number"),
        ({"rows": [None]}, r"rows\[0\] is None; expected an object"),
        ({"metrics": []}, "metrics is \\[\\]; expected an object"),
        ({"metrics": {"model": {"hr@10": "1"}}}, "metrics.model.hr@10 is '1'; expected a finite"),
        ({"metrics": {"model": {"hr@10": math.inf}}}, "hr@10 is inf; expected a finite number"),
        ({"best": "3"}, "best is '3'; expected a whole number from 0 on or null"),
        ({"tuned": 1}, "tuned is 1; expected true or false"),
        ({"seed": 2**63}, "seed is 9223372036854775808; expected a whole number"),
        ({"split": {"name": 1}}, "split.name is 1; expected text"),
        ({"split": [1]}, r"split is \[1\]; expected text or an object"),
    ],
)
def test_a_value_of_another_shape_is_refused_with_its_field(changed, message):
    with pytest.raises(ValueError, match=message):
        check(RIGHT | changed, SHAPE, "file.json")
    with pytest.raises(ValueError, match=r"file\.json: holds"):
        check([RIGHT], SHAPE, "file.json")


def test_fields_that_the_shape_does_not_name_are_refused_where_it_is_to_be_exact():
    exact = RIGHT | {"rows": [{"count": 0}]}
    check(exact | {"tuned": True}, SHAPE, "file.json", exact=True)
    with pytest.raises(ValueError, match=r"unknown field 'rows\[0\]\.more'; known are \['count'\]"):
        check(RIGHT, SHAPE, "file.json", exact=True)
    with pytest.raises(ValueError, match=r"file\.json: unknown field 'sead'; known are .*'seed'"):
        check(exact | {"sead": 1}, SHAPE, "file.json", exact=True)
    with pytest.raises(ValueError, match=r"unknown field 'split\.id'"):
        check(exact | {"split": {"name": "y", "id": 1}}, SHAPE, "file.json", exact=True)


def test_a_digest_is_64_hexadecimal_digits():
    check("0a" * 32, SHA256, "x")
    for wrong in ("0a" * 31, "0A" * 32, "0g" * 32, 3, None, ["0"] * 64):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            check(wrong, SHA256, "x")


def _npy(array, shape=None, descr=None):
    """The bytes of an array whose header says something else."""
    header = {
        "descr": descr or np.lib.format.dtype_to_descr(array.dtype),
        "fortran_order": False,
        "shape": array.shape if shape is None else shape,
    }
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


ROWS = np.arange(6, dtype=np.int32).reshape(2, 3)
BAD_ARRAYS = {
    "a huge shape": _npy(ROWS, (10**12, 3)),
    "a shape beyond int64": _npy(ROWS, (10**30,)),
    "a shape whose product wraps": _npy(ROWS, (2**32, 2**32)),
    "nothing of a huge axis": _npy(ROWS[:0], (0, 2**62)),
    "many axes": _npy(ROWS, (1,) * 40 + (6,)),
    "a negative shape": _npy(ROWS, (-2, -3)),
    "a shape of text": _npy(ROWS, ("2", 3)),
    "objects": _npy(ROWS, descr="|O"),
    "text": _npy(ROWS, descr="<U6"),
    "a wider type": _npy(ROWS, descr="<i8"),
    "another byte order": _npy(ROWS, descr=">i4"),
    "another rank": _npy(ROWS.reshape(-1)),
    "a row less": _npy(ROWS)[:-12],
    "a byte more": _npy(ROWS) + b"\0",
    "half a header": _npy(ROWS)[:20],
    "nothing": b"",
    "no array": b"PK\x03\x04 is how an archive begins",
    "a header of brackets": _npy(ROWS).replace(b"{'descr'", b"((((((((("),
    "a later version": b"\x93NUMPY\x09" + _npy(ROWS)[7:],
}


@pytest.mark.parametrize("content", BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_an_array_that_is_none_or_another_is_refused_before_memory_is_taken(tmp_path, content):
    path = tmp_path / "rows.npy"
    path.write_bytes(content)
    for mapped in (False, True):
        with pytest.raises(ValueError, match=r"rows\.npy: .") as error:
            files.read_npy(path, "int32", (None, 3), mapped=mapped)
        assert "\n" not in str(error.value)


def test_arrays_are_read_as_numpy_wrote_them(tmp_path):
    for array in (ROWS, np.asfortranarray(ROWS), ROWS[:0], np.float64(3), ROWS.astype(">f8")):
        np.save(tmp_path / "x.npy", array)
        for mapped in (False, True):
            read = files.read_npy(tmp_path / "x.npy", mapped=mapped)
            assert read.dtype == array.dtype
            assert np.array_equal(read, array)
    np.savez_compressed(tmp_path / "x.npz", rows=ROWS, one=np.float64(3), empty=ROWS[:0])
    assert {name: value.tolist() for name, value in files.read_npz(tmp_path / "x.npz").items()} == {
        "rows": ROWS.tolist(),
        "one": 3.0,
        "empty": [],
    }


def _npz(path, content, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, member in content:
            archive.writestr(name, member)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_damaged_or_hostile_archive_is_refused_by_name(tmp_path):
    path = tmp_path / "x.npz"
    for content, message in (
        ([("a.npy", _npy(ROWS, (10**12, 3)))], "'a': its header asks for"),
        ([("a.npy", _npy(ROWS, descr="|O"))], "'a': not a readable .npy file of numbers"),
        ([("a.npy", _npy(ROWS)), ("a.npy", _npy(ROWS))], "'a' is there twice"),
        ([("a.npy", b"text")], "'a': not a readable"),
    ):
        _npz(path, content)
        with pytest.raises(ValueError, match=rf"x\.npz: not a readable .npz file.*{message}"):
            files.read_npz(path)


def test_an_archive_that_would_fill_the_memory_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros(1 << 16, np.uint8))
    size = (128 + (1 << 16)).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (1 << 30).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"x\.npz: .*it unpacks to 1073741824 bytes; there may be"):
        files.read_npz(path)


def test_every_byte_of_an_archive_can_be_wrong(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, rows=np.arange(64), more=np.ones(3))
    whole, right = path.read_bytes(), files.read_npz(path)
    refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        )
        try:
            read = files.read_npz(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  # which bytes are harmless is not known
            refused += 1
        else:
            values = sorted(value.tolist() for value in read.values())
            assert values == sorted(value.tolist() for value in right.values())
    assert refused > len(whole) / 6


SIGNS = "\x1b[31m \x9b \u202e\u2066\u061c \x7f\r\u2028"


def test_signs_that_act_are_shown_as_escapes():
    assert files.shown(SIGNS) == ("\\x1b[31m \\x9b \\u202e\\u2066\\u061c \\x7f\\r\\u2028")
    assert files.shown("a\nb\tc\x00", lines=True) == "a\nb\tc\\x00"
    assert files.shown("a\nb") == "a\\nb"
    plain = 'Grüße, नमस्ते, שלום, 👨‍👩‍👧 <b> \\ "x"'
    assert files.shown(plain) == plain


def test_a_line_of_json_shows_no_such_sign_and_reads_back_the_same():
    value = {SIGNS: [SIGNS, "ü", 1.5]}
    line = files.json_line(value)
    assert json.loads(line) == value
    assert line.isprintable()
    assert "ü" in line
