"""Files appear whole or not at all."""

import math

import pytest

from minirec import files


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"a": 1}
    assert [child.name for child in tmp_path.iterdir()] == ["value.json"]


def test_a_write_makes_folders_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "deep" / "down" / "text.txt"
    files.write_text(path, "one")
    files.write_text(path, "two ü")
    assert path.read_text(encoding="utf-8") == "two ü"
    assert [child.name for child in path.parent.iterdir()] == ["text.txt"]


def test_values_that_json_cannot_hold_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"loss": math.nan})
    assert not list(tmp_path.iterdir())


def test_a_damaged_json_file_is_named(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=r"broken\.json"):
        files.read_json(path)


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.sha256(path).startswith("ba7816bf8f01cfea")
