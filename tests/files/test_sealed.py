"""Sealed JSON and checksums: what has changed since it was written is told from what has not."""

import json

import pytest

from minirec import files

VALUE = {"b": [1, 2.5, None, True], "a": {"text": "ü\u2028", "large": 2**70}, 3: "number"}
READ = json.loads(json.dumps(VALUE))


def test_a_sealed_object_comes_back_as_it_was_and_in_its_order(tmp_path):
    files.write_sealed(tmp_path / "x.json", VALUE)
    back = files.read_sealed(tmp_path / "x.json", "")
    assert back == READ
    assert list(back) == ["b", "a", "3"]


def test_a_flipped_bit_of_any_byte_is_refused_by_the_files_name(tmp_path):
    path = tmp_path / "x.json"
    files.write_sealed(path, VALUE)
    data = path.read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(files.DamagedError, match=rf"^{path}: .*; make it anew$"):
            files.read_sealed(path, "make it anew")


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"sha256": "0"}', '{"a": 1}', '{"a":'])
def test_what_carries_no_digest_of_itself_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(files.DamagedError, match=r"x\.json: .*; make it anew"):
        files.read_sealed(tmp_path / "x.json", "make it anew")


def test_fields_in_another_order_are_another_object(tmp_path):
    sealed = files.seal({"a": 1, "b": 2})
    turned = {name: sealed[name] for name in ("b", "a", "sha256")}
    with pytest.raises(files.DamagedError, match="damaged or edited"):
        files.unseal(turned, "x", "")


def test_a_field_of_the_digests_name_is_refused():
    with pytest.raises(ValueError, match="'sha256' is taken"):
        files.seal({"sha256": 1})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"")
    files.write_checksums(tmp_path)
    return tmp_path


def test_a_folder_is_as_it_was_until_a_file_changes_or_goes(folder):
    files.check_folder(folder, remedy="")
    (folder / "new").write_bytes(b"no part of it")
    files.check_folder(folder, remedy="")
    (folder / "two").write_bytes(b"x")
    files.check_folder(folder, ["deep/one"], remedy="")
    with pytest.raises(files.DamagedError, match=r"two: has been damaged .* 1 bytes .*; again"):
        files.check_folder(folder, remedy="again")
    (folder / "two").unlink()
    with pytest.raises(files.DamagedError, match=r"two is missing; again"):
        files.check_folder(folder, remedy="again")
    with pytest.raises(files.DamagedError, match=r"new: there is no digest of it; again"):
        files.check_folder(folder, ["new"], remedy="again")


def test_without_its_checksums_a_folder_is_refused(folder):
    (folder / "checksums.json").unlink()
    with pytest.raises(files.DamagedError, match=r"checksums\.json is missing.*; again"):
        files.check_folder(folder, remedy="again")


@pytest.mark.parametrize("value", [{}, {"files": 1}, {"files": {"two": 1}}, {"files": {"two": {}}}])
def test_checksums_of_another_shape_are_refused(folder, value):
    files.write_sealed(folder / "checksums.json", value)
    with pytest.raises(files.DamagedError, match=r"checksums.*; again"):
        files.check_folder(folder, remedy="again")
