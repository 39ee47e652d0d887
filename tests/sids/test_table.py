import json

import numpy as np
import pytest

from minirec.sids import SidTable, parse_sid, sid_string

GOOD = {"7": ["<a_12>", "<b_3>"], "x": ["<a_0>", "<b_255>"], 'é\t"': ["<a_12>", "<b_4>"]}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_load_takes_the_files_order_and_rounds_codebooks_up_to_powers_of_two(tmp_path):
    table = SidTable.load(write(tmp_path / "sids.json", GOOD))
    assert table.raw_item_ids == tuple(GOOD)
    assert table.codes.dtype == np.int32
    assert table.codes.tolist() == [[12, 3], [0, 255], [12, 4]]
    assert table.codebook_sizes == (16, 256)
    assert (table.num_items, table.num_levels, table.num_ignored) == (3, 2, 0)


def test_load_follows_the_catalogue_and_counts_what_it_lacks(tmp_path):
    path = write(tmp_path / "sids.json", GOOD)
    table = SidTable.load(path, ["x", "7"], codebook_sizes=[256, 256])
    assert table.codes.tolist() == [[0, 255], [12, 3]]
    assert table.codebook_sizes == (256, 256)
    assert table.num_ignored == 1


def test_save_and_load_give_the_same_table(tmp_path):
    codes = np.random.default_rng(0).integers(0, 65_536, (50, 16))
    table = SidTable([f"id {i} \"'\n😀" for i in range(50)], codes, (65_536,) * 16)
    table.save(tmp_path / "sids.json")
    again = SidTable.load(tmp_path / "sids.json", codebook_sizes=table.codebook_sizes)
    assert again.raw_item_ids == table.raw_item_ids
    assert np.array_equal(again.codes, codes)
    assert again.codebook_sizes == table.codebook_sizes


def test_codes_cannot_be_changed_behind_the_tables_back():
    codes = np.zeros((1, 2), np.int32)
    table = SidTable(["0"], codes, (1, 1))
    codes[:] = 9
    assert table.codes.tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="read-only"):
        table.codes[0, 0] = 1


@pytest.mark.parametrize(
    ("sid", "message"),
    [
        (["<a_1>"], "1 levels; the items before it have 2"),
        (["<a_1>", "<b_2>", "<c_3>"], "3 levels; the items before it have 2"),
        ([], "0 levels; expected 1 to 16"),
        (["<a_1>"] * 17, "17 levels; expected 1 to 16"),
        ("<a_1><b_2>", "is not a list of tokens"),
        ({"a": 1}, "is not a list of tokens"),
        (None, "is not a list of tokens"),
        (["<a_1>", 2], "2 at level 1 is not a token; expected '<b_CODE>'"),
        (["<a_1>", ["<b_2>"]], "at level 1 is not a token"),
        (["<a_1>", "b_2"], "'b_2' at level 1 is malformed; expected '<b_CODE>'"),
        (["<a_1>", "<b_2> "], "malformed"),
        (["<a_1>", "<b_02>"], "malformed"),
        (["<a_1>", "<b_٣>"], "malformed"),
        (["<a_1>", "<q_2>"], "malformed"),
        (["<a_-1>", "<b_2>"], "'<a_-1>' at level 0 has a negative code"),
        (["<b_1>", "<a_2>"], "'<b_1>' at level 0 carries another level's letter"),
        (["<a_1>", "<c_2>"], "'<c_2>' at level 1 carries another level's letter"),
        (["<a_1>", "<b_65536>"], r"codes lie in \[0, 65536\)"),
        (["<a_1>", "<b_256>"], r"'<b_256>' at level 1 .*codes lie in \[0, 256\)"),
    ],
)
def test_a_wrong_sid_is_an_error_that_names_file_item_and_value(tmp_path, sid, message):
    path = write(tmp_path / "broken.json", {**GOOD, "wrong": sid})
    with pytest.raises(ValueError, match=rf"broken\.json: item 'wrong': .*{message}"):
        SidTable.load(path, codebook_sizes=(256, 256))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"1": ["<a_1>"], "2": ["<a_2>"], "1": ["<a_3>"]}',
            "not a JSON file: '1' stands there twice",
        ),
        ("{}", "holds no items"),
        ("", "not a JSON file"),
        ('{"1": ["<a_1>"', "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ('[["<a_1>"]]', "holds a list; expected an object"),
    ],
)
def test_a_file_that_is_no_table_is_an_error_that_names_it(tmp_path, text, message):
    path = write(tmp_path / "broken.json", text)
    with pytest.raises(ValueError, match=rf"broken\.json: {message}"):
        SidTable.load(path)


def test_an_item_without_sid_is_named(tmp_path):
    path = write(tmp_path / "sids.json", GOOD)
    with pytest.raises(ValueError, match=r"sids\.json: item '8' of the catalogue has no SID \(2 "):
        SidTable.load(path, ["7", "8", "9"])


def test_codebook_sizes_of_another_number_of_levels_are_refused(tmp_path):
    path = write(tmp_path / "sids.json", GOOD)
    with pytest.raises(ValueError, match="SIDs of 2 levels, but codebook_sizes has 3"):
        SidTable.load(path, codebook_sizes=(256,) * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "a"], np.zeros((2, 1), int), (1,)), "'a' occurs more than once"),
        ((["a", 1], np.zeros((2, 1), int), (1,)), "1 .row 1. is not a string"),
        ((["a"], np.zeros((2, 1), int), (1,)), "1 names for 2 rows"),
        (([], np.zeros((0, 1), int), (1,)), "no items"),
        ((["a"], np.zeros((1, 17), int), (1,) * 17), "17 levels"),
        ((["a"], np.zeros((1, 2)), (1, 1)), "integer array"),
        ((["a"], np.zeros((1, 2), int), (1,)), "1 given for 2 levels"),
        ((["a"], np.zeros((1, 1), int), (65_537,)), "65537 at level 0"),
        ((["a", "b"], np.array([[0], [-1]]), (1,)), "item 'b' .row 1. has code -1 at level 0"),
        ((["a", "b"], np.array([[0], [4]]), (4,)), r"has code 4 .*must lie in \[0, 4\)"),
    ],
)
def test_a_table_checks_its_fields(arguments, message):
    with pytest.raises(ValueError, match=message):
        SidTable(*arguments)


def test_sids_are_spelled_and_read_as_published():
    assert sid_string([12, 3, 200]) == "<a_12><b_3><c_200>"
    assert sid_string(np.arange(16)).endswith("<p_15>")
    assert parse_sid(sid_string([12, 3, 200])) == (12, 3, 200)


@pytest.mark.parametrize(
    "text", ["", "<a_1> <b_2>", "<a_1><b_x>", "<b_1><a_2>", "<a_1>\n", "<a_65536>", "<a_1>" * 17]
)
def test_what_is_no_sid_is_refused(text):
    with pytest.raises(ValueError, match="SID"):
        parse_sid(text)


def test_codes_without_spelling_are_refused():
    with pytest.raises(ValueError, match="code -1"):
        sid_string([-1])
    with pytest.raises(ValueError, match="level 16"):
        sid_string([0] * 17)


def test_the_real_files_load_and_round_trip(real_data, tmp_path):
    beauty = SidTable.load(real_data / "amazon_beauty" / "Beauty.index.json")
    assert beauty.codes.shape == (12_101, 4)
    assert beauty.codebook_sizes == (256,) * 4
    assert beauty.codes[0].tolist() == [183, 70, 232, 6]
    beauty.save(tmp_path / "sids.json")
    again = SidTable.load(tmp_path / "sids.json", beauty.raw_item_ids[::-1])
    assert np.array_equal(again.codes, beauty.codes[::-1])
    (path,) = (real_data / "amazon_industrial" / "index").glob("*.index.json")
    assert SidTable.load(path).codes.shape == (3_686, 3)
