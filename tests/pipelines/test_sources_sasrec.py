import json

import pytest

from pipelines import sources
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.tables import table as sizes
from pipelines.tables.bad_rows import BadRows
from tests.pipelines.source_layouts import seconds


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "log.txt").write_text("ann 3 1 2\nbob 2 10\n")
    attributes = {"10": [7], "1": [5, 6], "2": [], "3": [5]}
    (tmp_path / "attributes.json").write_text(json.dumps(attributes))
    return tmp_path


def load(folder, **fields):
    config = {"name": "sasrec", "folder": str(folder), "interactions": "log.txt"}
    return sources.load({**config, "attributes": "attributes.json", **fields})


def test_lines_become_interactions_in_order(folder):
    raw = load(folder)
    assert raw.interactions["user"].to_list() == ["ann"] * 3 + ["bob"] * 2
    assert raw.interactions["item"].to_list() == ["3", "1", "2", "2", "10"]
    assert [seconds(time) for time in raw.interactions["time"]] == [0, 1, 2, 0, 1]
    assert not raw.has_times


def test_the_catalogue_is_in_the_order_of_the_numbers(folder):
    raw = load(folder)
    assert raw.items["raw_item_id"].to_list() == ["1", "2", "3", "10"]
    assert raw.items["attributes"].to_list()[0] == ["attribute=5", "attribute=6"]


def test_index_offset_moves_log_and_catalogue_to_the_numbers_of_the_index(folder):
    raw = load(folder, index_offset=1)
    assert raw.items["raw_item_id"].to_list() == ["0", "1", "2", "9"]
    assert raw.interactions["item"].to_list() == ["2", "0", "1", "1", "9"]


def test_without_attributes_the_catalogue_is_what_the_log_holds(folder):
    raw = load(folder, attributes="")
    assert raw.items["raw_item_id"].to_list() == ["1", "2", "3", "10"]
    assert raw.items["attributes"].to_list() == [[]] * 4


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("ann 1\nbob\n", r"log.txt, line 2: user 'bob' has no items"),
        ("ann 1\n\nann 2\n", r"log.txt, line 3: user 'ann' has a line already, 1"),
        ("ann 1 x2\n", r"log.txt, line 1: item 'x2' of user 'ann' is not a whole number"),
        ("ann 1 -2\n", r"item '-2'"),
        ("ann 1 1_0\n", r"item '1_0'"),
        (f"ann 1 {10**30}\n", r"is not a whole number"),
        ("ann 1\nbob 2 11\n", r"user 'bob' has item 11, which .*attributes.json lacks"),
        ("", "holds no interactions"),
    ],
)
def test_a_wrong_line_is_an_error_that_names_it(folder, log, message):
    (folder / "log.txt").write_text(log)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_an_item_below_the_offset_is_refused(folder):
    (folder / "log.txt").write_text("ann 1 0\n")
    with pytest.raises(ValueError, match=r"item '0' .* from 1 on"):
        load(folder, index_offset=1)


def test_missing_files_unknown_fields_and_names_are_errors(folder):
    with pytest.raises(ValueError, match=r"none.txt: no such file"):
        load(folder, interactions="none.txt")
    with pytest.raises(ValueError, match=r"no field 'delimiter'; its fields: folder, interactions"):
        load(folder, delimiter=",")
    with pytest.raises(ValueError, match=r"source.name is 'sas'; .* minionerec, .* sasrec"):
        sources.load({"name": "sas"})
    with pytest.raises(ValueError, match="needs the field 'folder'"):
        sources.load({"name": "sasrec", "interactions": "log.txt"})


def test_broken_utf8_and_broken_json_are_errors_that_name_the_file(folder):
    (folder / "attributes.json").write_text("{")
    with pytest.raises(ValueError, match=r"attributes\.json: not a JSON file"):
        load(folder)
    (folder / "log.txt").write_bytes(b"ann 1 \xff\n")
    with pytest.raises(ValueError, match=r"log.txt: byte 6 is not UTF-8"):
        load(folder)


def test_a_line_has_a_limit(folder, monkeypatch):
    monkeypatch.setattr(sizes, "MAX_LINE_BYTES", 9)
    for end in ("\n", ""):
        (folder / "log.txt").write_text(f"ann 3 1 2\nbob 2 2 2{end}")
        assert len(load(folder).interactions) == 6
        (folder / "log.txt").write_text(f"ann 3 1 2\nbob 2 2 10{end}")
        with pytest.raises(ValueError, match=r"log.txt, line 2: longer than .* a line feed"):
            load(folder)


def test_a_log_of_which_nothing_is_left_says_why(folder):
    (folder / "log.txt").write_text("ann x\n")
    with pytest.raises(ValueError, match=r"log.txt: .*no interactions; left out: 1 not_an_item"):
        sources.load(
            {"name": "sasrec", "folder": str(folder), "interactions": "log.txt"}, BadRows("skip")
        )


def test_byte_order_mark_and_carriage_returns_are_no_part_of_ids(folder):
    (folder / "log.txt").write_bytes(b"\xef\xbb\xbfann 3 1\r\nbob 2\r\n")
    raw = load(folder)
    assert raw.interactions.select("user", "item").rows() == [
        ("ann", "3"),
        ("ann", "1"),
        ("bob", "2"),
    ]


def test_an_item_listed_twice_and_a_value_of_the_wrong_type_are_errors(folder):
    with pytest.raises(ValueError, match="index_offset is '1'; it must be of type int"):
        load(folder, index_offset="1")
    (folder / "attributes.json").write_text('{"1": [5], "2": [], "1": [6]}')
    with pytest.raises(ValueError, match=r"attributes.json: .*'1' stands there twice"):
        load(folder)


def test_real_beauty_has_its_published_counts(real_data, tmp_path):
    config = {
        "source": {
            "name": "sasrec",
            "folder": str(real_data / "amazon_beauty"),
            "interactions": "Beauty.txt",
            "attributes": "Beauty_item2attributes.json",
            "index_offset": 1,
        },
        "k_core": 5,
        "split": "leave_one_out",
    }
    manifest = prepare(config, tmp_path / "prepared")
    expected = {"users": 22363, "items": 12101, "interactions": 198502}
    assert manifest["counts"]["read"] == expected
    assert manifest["counts"]["prepared"] == expected  # it is a 5-core already
    prepared = Prepared.load(tmp_path / "prepared")
    assert prepared.train_count.sum() == 198502 - 2 * 22363
    index = json.loads((real_data / "amazon_beauty" / "Beauty.index.json").read_text())
    assert set(prepared.raw_item_ids) == set(index)


def test_a_pattern_names_the_one_file_that_matches_it(folder):
    by_pattern = load(folder, interactions="*.txt", attributes="*.json")
    by_name = load(folder)
    assert by_pattern.interactions.equals(by_name.interactions)
    assert by_pattern.inputs == by_name.inputs
    (folder / "other.txt").write_text("eve 1\n")
    with pytest.raises(ValueError, match=r"\*\.txt.*log\.txt, other\.txt"):
        load(folder, interactions="*.txt")
