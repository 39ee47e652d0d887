"""A pointer that Git LFS left in a file's place is named, whatever the file should have been."""

import pytest

from launch.wiring.append import read_new_items
from minirec import files
from minirec.models.hf.safetensors_file import SafetensorsReader
from minirec.sids.item_vectors import load_vectors
from minirec.sids.table import SidTable

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("value.json", files.read_json),
        ("vectors.npy", files.read_npy),
        ("vectors.npy", lambda path: load_vectors(path, 2)),
        ("index.json", lambda path: SidTable.load(path, ["a"])),
        ("model.safetensors", SafetensorsReader),
        ("items.csv", read_new_items),
    ],
)
def test_a_pointer_is_no_file(tmp_path, name, read):
    path = tmp_path / name
    path.write_text(POINTER)
    with pytest.raises(ValueError, match=rf"{name}: is a Git LFS pointer, .*'git lfs pull'"):
        read(path)


def test_what_only_begins_in_a_like_way_is_a_file(tmp_path):
    for text in ("", "v", "version,item\n", "version https://example.com/git-lfs\n"):
        (tmp_path / "a.csv").write_text(text)
        files.check_fetched(tmp_path / "a.csv")
