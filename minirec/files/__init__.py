"""Files and folders that appear whole or not at all, and how they are read back."""

from minirec.files.arrays import read_npy, read_npz, take_array, take_json
from minirec.files.atomic import atomic_path, write_json, write_text
from minirec.files.checksums import (
    CHECKSUMS,
    check_files,
    check_folder,
    checksums,
    write_checksums,
)
from minirec.files.digest import sha256
from minirec.files.errors import check_writable, naming
from minirec.files.folders import atomic_folder
from minirec.files.json_file import parse_json, read_json, read_json_lines
from minirec.files.pointers import check_fetched
from minirec.files.sealed import SEAL, DamagedError, read_sealed, seal, unseal, write_sealed
from minirec.files.shown import json_line, shown
from minirec.files.workplace import clear_leftovers

__all__ = [
    "CHECKSUMS",
    "SEAL",
    "DamagedError",
    "atomic_folder",
    "atomic_path",
    "check_fetched",
    "check_files",
    "check_folder",
    "checksums",
    "check_writable",
    "clear_leftovers",
    "json_line",
    "naming",
    "parse_json",
    "read_json",
    "read_json_lines",
    "read_npy",
    "read_npz",
    "read_sealed",
    "seal",
    "sha256",
    "shown",
    "take_array",
    "take_json",
    "unseal",
    "write_checksums",
    "write_json",
    "write_sealed",
    "write_text",
]
