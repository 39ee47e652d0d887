"""A prepared folder in which a bit has flipped, or a file is shorter, is refused by its name."""

import os
import shutil

import numpy as np
import pytest

from minirec import files
from pipelines.prepare import prepare
from pipelines.prepared import Prepared

CONFIG = {"source": {"name": "generated", "num_users": 20, "num_items": 192}}
CONFIG |= {"split": "leave_one_out"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage") / "prepared"
    prepare(CONFIG, folder)
    return folder


@pytest.fixture
def prepared(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "prepared")


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def content(folder):
    return {name: (folder / name).read_bytes() for name in names(folder)}


def test_any_flipped_bit_of_any_file_is_refused_by_its_name(prepared):
    assert len(names(prepared)) == 10
    for number, name in enumerate(names(prepared)):
        path = prepared / name
        data = path.read_bytes()
        rng = np.random.default_rng(number)
        for place in {0, len(data) - 1, *rng.integers(0, len(data), 4).tolist()}:
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(ValueError, match=f"{path}: .*run launch.prepare again"):
                Prepared.load(prepared)
        path.write_bytes(data)
    assert Prepared.load(prepared).num_users == 20


@pytest.mark.parametrize("name", ["offsets.npy", "users.parquet", "splits/test.npy"])
def test_another_array_of_the_same_size_is_refused_and_prepared_again(prepared, whole, name):
    data = bytearray((prepared / name).read_bytes())
    data[-20] ^= 255
    (prepared / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: has been damaged or replaced"):
        Prepared.load(prepared)
    prepare(CONFIG, prepared)
    assert content(prepared) == content(whole)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"format_version": 3}', b"\xff"])
def test_a_damaged_manifest_is_replaced_where_that_is_asked_for(prepared, whole, damage):
    (prepared / "manifest.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        prepare(CONFIG, prepared)
    assert (prepared / "manifest.json").read_bytes() == damage
    prepare(CONFIG, prepared, overwrite=True)
    assert content(prepared) == content(whole)


def test_somebody_elses_manifest_is_never_replaced(tmp_path):
    (tmp_path / "manifest.json").write_text('{"manifest_version": 3}')
    with pytest.raises(ValueError, match=r"manifest\.json"):
        prepare(CONFIG, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_large_file_is_read_once_a_process_unless_it_changes(tmp_path, monkeypatch):
    read = []

    def counted(path):
        read.append(path.name)
        return "0" * 64

    monkeypatch.setitem(files.check_files.__globals__, "sha256", counted)
    large, small = tmp_path / "large", tmp_path / "small"
    with large.open("wb") as file:
        file.truncate(17 << 20)
    small.write_bytes(b"x")
    expected = files.checksums(tmp_path, ["large", "small"])
    files.check_files(tmp_path, expected, remedy="")
    assert sorted(read) == ["large", "small", "small"]
    os.utime(large, ns=(1, 1))
    files.check_files(tmp_path, expected, remedy="")
    assert sorted(read) == ["large", "large", "small", "small", "small"]
