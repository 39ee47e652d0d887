"""Files and folders that appear whole or not at all, and how they are read back."""

from minirec.files.atomic import atomic_path, write_json, write_text
from minirec.files.digest import sha256
from minirec.files.folders import atomic_folder
from minirec.files.json_file import read_json

__all__ = ["atomic_folder", "atomic_path", "read_json", "sha256", "write_json", "write_text"]
