"""Files appear whole or not at all."""

import errno
import math
import os
import pathlib

import numpy as np
import pytest

from minirec import files
from minirec.files.workplace import locked


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


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_next_write_clears_what_a_killed_program_left_and_nothing_else(tmp_path):
    kept = [".value.json.backup", ".other.json.partial-12345678", ".value.json.partial-a.b"]
    for name in [".value.json.partial-dead1234", ".value.json.partial-alive567", *kept]:
        (tmp_path / name / "new").mkdir(parents=True)
    (tmp_path / ".value.json.partial-dead1234" / "new" / "value.json").write_text("{")
    (tmp_path / ".value.json.partial-a_file00").write_text("")
    with locked(tmp_path / ".value.json.partial-alive567"):
        files.write_json(tmp_path / "value.json", 1)
    left = [*kept, ".value.json.partial-a_file00", ".value.json.partial-alive567", "value.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left)
    files.write_json(tmp_path / "value.json", 2)
    left.remove(".value.json.partial-alive567")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left)


def test_leftovers_of_files_that_are_not_written_again_are_cleared_too(tmp_path):
    for name in (".a.partial-00000000", "deep/.b.json.partial-00000000", "deep/kept"):
        (tmp_path / name / "new").mkdir(parents=True)
    files.clear_leftovers(tmp_path / "missing")
    files.clear_leftovers(tmp_path)
    assert names(tmp_path)[:2] == ["deep", "deep/.b.json.partial-00000000"]
    files.clear_leftovers(tmp_path, recursive=True)
    assert names(tmp_path) == ["deep", "deep/kept", "deep/kept/new"]


def test_a_folder_that_a_kill_left_moved_aside_is_put_back(tmp_path):
    old = tmp_path / ".set.partial-00000000" / "old"
    old.mkdir(parents=True)
    (old / "file").write_text("whole")
    files.clear_leftovers(tmp_path)
    assert names(tmp_path) == ["set", "set/file"]


def test_a_file_may_be_written_where_one_is_being_written(tmp_path):
    with files.atomic_path(tmp_path / "outer") as temporary:
        files.write_text(temporary, "inner")
    assert (tmp_path / "outer").read_text() == "inner"
    assert names(tmp_path) == ["outer"]


def full_disk(*ignored):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    monkeypatch.setattr(pathlib.Path, "write_text", lambda *a, **k: full_disk())
    with pytest.raises(OSError, match="No space left") as raised:
        files.write_json(path, 1)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    # One that names the temporary file.
    with pytest.raises(IsADirectoryError) as raised, files.atomic_path(path) as temporary:
        temporary.mkdir()
        temporary.write_bytes(b"")
    assert raised.value.filename == str(path)
    # NumPy's, which has neither number nor name.
    said = pytest.raises(OSError, match=r"value\.json cannot be written: 5 requested")
    with said, files.atomic_path(path):
        raise OSError("5 requested and 3 written")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"value\.json"), files.atomic_path(path) as temporary:
        np.save(temporary.open("wb"), np.zeros(3))
    assert names(tmp_path) == []


def test_a_file_system_without_locks_is_written_to_and_nothing_is_cleared(tmp_path, monkeypatch):
    leftover = tmp_path / ".value.json.partial-00000000"
    leftover.mkdir()

    def no_locks(*ignored):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    files.write_json(tmp_path / "value.json", 1)
    assert names(tmp_path) == [leftover.name, "value.json"]
