"""The tensors of a Hugging Face folder: one `*.safetensors`, or several behind an index."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from minirec.files import read_json
from minirec.models.hf.safetensors_file import SafetensorsReader, StoredTensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class TensorFolder:
    """The tensors of a folder, by name; a context manager that holds the files open.

    Attributes:
        folder: the folder.

    Raises:
        ValueError: no tensors are there, a file is damaged, or the index and the files disagree.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        single, index = self.folder / WEIGHTS, self.folder / INDEX
        if single.exists() and index.exists():
            raise ValueError(f"{self.folder}: holds both {WEIGHTS} and {INDEX}; one must go")
        if not single.exists() and not index.exists():
            others = sorted(path.name for path in self.folder.glob("*.safetensors"))
            pickled = sorted(path.name for path in self.folder.glob("*.bin"))
            raise ValueError(
                f"{self.folder}: holds neither {WEIGHTS} nor {INDEX}"
                + (f"; {', '.join(others[:3])} need an index" if others else "")
                + (f"; {', '.join(pickled[:3])} are not read, only safetensors" if pickled else "")
            )
        with contextlib.ExitStack() as opened:
            if single.exists():
                reader = opened.enter_context(SafetensorsReader(single))
                self._readers = dict.fromkeys(reader.tensors, reader)
            else:
                self._readers = _behind_index(index, opened)
            self._close = opened.pop_all().close

    def __enter__(self) -> TensorFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        return set(self._readers)

    def info(self, name: str) -> StoredTensor:
        """Returns type and shape of a tensor."""
        return self._readers[name].tensors[name]

    def path(self, name: str) -> Path:
        """Returns the file that holds a tensor."""
        return self._readers[name].path

    def read(self, name: str, rows: slice, columns: slice = slice(None)) -> Any:
        """Returns a part of a tensor; see `SafetensorsReader.read`."""
        return self._readers[name].read(name, rows, columns)


def _behind_index(index: Path, opened: contextlib.ExitStack) -> dict[str, SafetensorsReader]:
    files = read_json(index, {"weight_map": {str: str}})["weight_map"]
    if not files:
        raise ValueError(f"{index}: weight_map is empty; it must give each tensor's file")
    readers: dict[str, SafetensorsReader] = {}
    for name, file in files.items():
        if Path(file).name != file:
            raise ValueError(f"{index}: tensor {name!r}: {file!r} must be the name of a file here")
        if file in readers:
            continue
        if not (index.parent / file).is_file():
            raise ValueError(f"{index}: tensor {name!r}: its file {file!r} is missing")
        readers[file] = opened.enter_context(SafetensorsReader(index.parent / file))
    for name, file in files.items():
        if name not in readers[file].tensors:
            raise ValueError(f"{index}: tensor {name!r} is not in {file!r}, where it should be")
    for file, reader in readers.items():
        for name in reader.tensors:
            if files.get(name) != file:
                raise ValueError(
                    f"{reader.path}: tensor {name!r}: {index.name} gives it the file "
                    f"{files.get(name)!r}"
                )
    return {name: readers[file] for name, file in files.items()}
