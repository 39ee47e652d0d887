"""One `*.safetensors` file, a part of a tensor at a time.

The library `safetensors` maps a file into memory and writes one from arrays that all lie in memory;
both would count towards the peak that a checkpoint may take. Here a part is read into a buffer of
its own size, and a tensor is written block by block. The format: eight bytes with the header's
length, a JSON header with each tensor's type, shape and place, then the tensors' bytes, row-major
and little-endian (huggingface/safetensors, README).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from minirec.files import check_fetched, parse_json
from minirec.files.schema import COUNT, check

# The types that the format knows, by the bytes of an element.
_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16)}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000
_METADATA = "__metadata__"
_ENTRY = {"dtype": str, "shape": [COUNT], "data_offsets": [COUNT]}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """What a header says of a tensor.

    Attributes:
        dtype: the format's name of its type, such as "BF16".
        shape: its axes.
        start: its first byte in the file.
        stop: the byte after its last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsReader:
    """The tensors of one file; a context manager that holds the file open.

    Attributes:
        path: the file.
        tensors: what it holds, by name.

    Raises:
        ValueError: the file is not of this format, or truncated; the message names it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # Unbuffered: what is asked for is read, and nothing beyond.
        self._file: BinaryIO = self.path.open("rb", buffering=0)
        try:
            self.tensors = _read_header(self.path, self._file)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SafetensorsReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str, rows: slice, columns: slice = slice(None)) -> np.ndarray:
        """Returns a part of a vector (`columns` left out) or of a matrix.

        Args:
            name: a tensor of type float32 or bfloat16 with one or two axes.
            rows: range of the first axis.
            columns: range of the second; only its bytes are read.

        Raises:
            ValueError: the file ends within the tensor.
        """
        tensor = self.tensors[name]
        dtype = DTYPES[tensor.dtype]
        first, last, _ = rows.indices(tensor.shape[0])
        width = math.prod(tensor.shape[1:])
        left, right, _ = columns.indices(width)
        part = np.empty((last - first, right - left), dtype)
        place = tensor.start + (first * width + left) * dtype.itemsize
        if part.shape[1] == width:
            self._fill(name, part.reshape(-1), place)
        else:
            for row in part:
                self._fill(name, row, place)
                place += width * dtype.itemsize
        return part.reshape(-1) if len(tensor.shape) == 1 else part

    def _fill(self, name: str, target: np.ndarray, place: int) -> None:
        wanted = memoryview(target.view(np.uint8))
        self._file.seek(place)
        while wanted:
            count = self._file.readinto(wanted)  # pyrefly: ignore
            if not count:
                raise ValueError(f"{self.path}: the file ends within tensor {name!r}")
            wanted = wanted[count:]


def _read_header(path: Path, file: BinaryIO) -> dict[str, StoredTensor]:
    check_fetched(path)
    size = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise ValueError(
            f"{path}: not a safetensors file, or truncated: {size} bytes, of which the first eight "
            f"ask for a header of {length}"
        )
    header = parse_json(file.read(length), f"{path}: the header is not JSON")
    check(header, dict, f"{path}: the header")
    header.pop(_METADATA, None)
    check(header, {str: _ENTRY}, f"{path}: the header")
    tensors = {name: _stored(path, name, header[name], 8 + length) for name in header}
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != end:
            raise ValueError(
                f"{path}: tensor {name!r} begins at byte {tensor.start}, the one before ends at "
                f"{end}: tensors must lie end to end"
            )
        end = tensor.stop
    if end > size:
        raise ValueError(f"{path}: truncated: {size} bytes, its header asks for {end}")
    if end < size:
        raise ValueError(f"{path}: {size} bytes, of which its header explains {end}")
    return tensors


def _stored(path: Path, name: str, entry: Any, base: int) -> StoredTensor:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if len(offsets) != 2:
        raise ValueError(f"{path}: tensor {name!r}: data_offsets {offsets}; expected two numbers")
    start, stop = offsets
    if dtype not in _SIZES:
        raise ValueError(f"{path}: tensor {name!r}: dtype {dtype!r} is unknown")
    asked = math.prod(shape) * _SIZES[dtype]
    if stop - start != asked:
        raise ValueError(
            f"{path}: tensor {name!r}: shape {shape} of {dtype} takes {asked} bytes, its "
            f"data_offsets {[start, stop]} give {stop - start}"
        )
    return StoredTensor(dtype, tuple(shape), base + start, base + stop)


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    blocks: Iterable[np.ndarray],
) -> None:
    """Writes a file of float32 or bfloat16 tensors.

    Args:
        path: the file; what is there is replaced.
        tensors: type and shape of each, in the order in which they come.
        blocks: their elements, in any number of pieces, tensor after tensor.

    Raises:
        ValueError: a type other than these two, or blocks of another size in all.
    """
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        if np.dtype(dtype) not in _NAMES:
            raise ValueError(f"tensor {name!r}: dtype {dtype} must be one of {list(_NAMES)}")
        start, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {
            "dtype": _NAMES[np.dtype(dtype)],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in blocks:
            file.write(memoryview(np.ascontiguousarray(block).reshape(-1).view(np.uint8)))
        written = file.tell() - 8 - len(text)
        if written != end:
            raise ValueError(
                f"{path}: blocks of {written} bytes were given, the tensors take {end}"
            )
        file.flush()
        os.fsync(file.fileno())
