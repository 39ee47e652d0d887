"""A folder that cannot be written is told before the work whose result goes there."""

import os

import pytest

from minirec import files


def test_a_folder_that_is_there_or_can_be_made_is_fine(tmp_path):
    files.check_writable(tmp_path)
    files.check_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_what_stands_in_the_way_is_named(tmp_path, monkeypatch):
    # The superuser of this machine may write anywhere but on a disk that is mounted read-only.
    asked = []
    monkeypatch.setattr(os, "access", lambda place, mode: asked.append((place, mode)))
    with pytest.raises(
        OSError, match=rf"report cannot be written: {tmp_path} is read-only"
    ) as told:
        files.check_writable(tmp_path / "run" / "report")
    assert told.value.errno is None
    assert asked == [(tmp_path, os.W_OK)]
