"""NumPy's files, `.npy` and `.npz`, checked before a byte of memory is taken for what they hold.

A header says how large an array is, and may say anything: `np.load` believes it. Here it must fit
the file.
"""

from __future__ import annotations

import dataclasses
import math
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minirec.files.json_file import parse_json
from minirec.files.pointers import check_fetched
from minirec.files.schema import check

# An archive may unpack to this much, or to so many times its size; codebooks take some MiB, and
# are packed to a half. Zeros can be packed to a thousandth.
_MOST_UNPACKED = 1 << 28
_MOST_TIMES = 20
_MOST_AXES = 8
_END = struct.Struct("<4s6xH10x")  # An archive's last bytes: a mark, and how many entries it has.
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclasses.dataclass(frozen=True)
class _Header:
    """What an array's header says; `start` is where its elements begin."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: Any
    start: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(
    path: str | os.PathLike[str],
    dtype: str | None = None,
    shape: Sequence[int | None] | None = None,
    *,
    mapped: bool = False,
) -> np.ndarray:
    """Returns the array in a `.npy` file.

    Args:
        path: the file.
        dtype: the element type that it must have, such as "int32"; None: any plain one.
        shape: the shape that it must have; None stands for any length of an axis, or any shape.
        mapped: leave it on the disk, read-only, and read what is looked at.

    Raises:
        ValueError: the file is not such an array, or longer or shorter than its header says; the
            message names it.
        OSError: the file cannot be read.
    """
    path = Path(path)
    check_fetched(path)
    with path.open("rb") as file:
        header = _header(file, str(path))
        size = os.fstat(file.fileno()).st_size
        if size - header.start != header.num_bytes:
            raise ValueError(
                f"{path}: damaged: its header asks for {list(header.shape)} of {header.dtype}, "
                f"{header.num_bytes} bytes; it holds {size - header.start}"
            )
        _check_wanted(str(path), header, dtype, shape)
        if mapped and header.num_bytes:  # Nothing cannot be mapped.
            return np.memmap(
                path, header.dtype, "r", header.start, header.shape, order=header.order
            )
        array = np.fromfile(file, header.dtype, math.prod(header.shape))
    if len(array) != math.prod(header.shape):
        raise ValueError(f"{path}: cut short while it was read")
    return array.reshape(header.shape, order=header.order)


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the arrays in a `.npz` file, by name.

    Raises:
        ValueError: the file is not an archive of arrays, is damaged, or unpacks to far more than
            such a file holds; the message names it, and the array.
        OSError: the file cannot be read.
    """
    path = Path(path)
    where = f"{path}: not a readable .npz file of numbers"
    with path.open("rb") as file:
        try:
            return _arrays(file, path)
        except Exception as error:  # zipfile, zlib and NumPy have no base in common.
            raise ValueError(f"{where}: {str(error) or type(error).__name__}") from error


def _arrays(file: BinaryIO, path: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        file.seek(-_END.size, os.SEEK_END)  # zipfile does not count what it finds.
        if _END.unpack(file.read()) != (b"PK\5\6", len(entries)):
            raise ValueError("its list of contents is damaged")
        _check_unpacked(sum(entry.file_size for entry in entries), path)
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"{name!r:.80} is there twice")
            with archive.open(entry) as member:
                arrays[name] = _member(member, entry.file_size, repr(name))
    return arrays


def take_array(
    arrays: dict[str, np.ndarray],
    name: str,
    dtype: str,
    shape: Sequence[int | None],
    path: str | os.PathLike[str],
) -> np.ndarray:
    """Takes an array of a type and a shape, without NaN and infinities, out of a file's arrays.

    Args:
        arrays: what `read_npz` returned.
        name: the array's.
        dtype: the element type that it must have, such as "float32".
        shape: the shape that it must have; None stands for any length of an axis.
        path: the file, for errors.

    Raises:
        ValueError: it is missing or another; the message names the file and it.
    """
    if name not in arrays:
        raise ValueError(f"{path}: it has no array {name!r}")
    array = arrays.pop(name)
    _check_wanted(f"{path}: {name}", array, dtype, shape)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {name}: holds NaN or an infinity")
    return array


def take_json(
    arrays: dict[str, np.ndarray], name: str, shape: Any, path: str | os.PathLike[str]
) -> Any:
    """Takes a JSON value, kept as its bytes, out of a file's arrays.

    Args:
        arrays: what `read_npz` returned.
        name: the array's, `uint8`.
        shape: what the value must look like, as `minirec.files.schema` writes it.
        path: the file, for errors.

    Raises:
        ValueError: it is missing or another; the message names the file and it.
    """
    where = f"{path}: {name}"
    data = take_array(arrays, name, "uint8", (None,), path).tobytes()
    value = parse_json(data, f"{where}: not JSON")
    check(value, shape, where)
    return value


def _check_unpacked(num_bytes: int, path: Path) -> None:
    most = max(_MOST_UNPACKED, _MOST_TIMES * path.stat().st_size)
    if num_bytes > most:
        raise ValueError(f"it unpacks to {num_bytes} bytes; there may be {most}")


def _member(file: Any, size: int, name: str) -> np.ndarray:
    header = _header(file, name)
    if size - header.start != header.num_bytes:
        raise ValueError(
            f"{name}: its header asks for {list(header.shape)} of {header.dtype}, "
            f"{header.num_bytes} bytes; it holds {size - header.start}"
        )
    data = file.read(header.num_bytes)
    if len(data) != header.num_bytes or file.read(1):  # At the end the checksum is looked at.
        raise ValueError(f"{name}: holds {len(data)} bytes, not {header.num_bytes}")
    array = np.frombuffer(bytearray(data), header.dtype)
    return array.reshape(header.shape, order=header.order)


def _header(file: BinaryIO, where: str) -> _Header:
    """Returns what the header says; the file stands behind it."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READ_HEADER:
            raise ValueError(f"version {version} of the format is not read")
        shape, by_columns, dtype = _READ_HEADER[version](file)
        start = file.tell()
    except Exception as error:  # It is Python's text: whatever its parser raises on damage.
        said = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{where}: not a readable .npy file of numbers: {said}") from error
    if dtype.kind not in "biufc" or dtype.itemsize == 0:
        raise ValueError(f"{where}: not a readable .npy file of numbers: it holds {dtype}")
    plain = len(shape) <= _MOST_AXES and all(type(n) is int and n >= 0 for n in shape)
    # The second for arrays without elements, whose axes NumPy multiplies all the same.
    if not plain or math.prod(max(n, 1) for n in shape) >= 1 << 60:
        raise ValueError(f"{where}: damaged: its header gives the shape {shape}")
    return _Header(dtype, shape, "F" if by_columns else "C", start)


def _check_wanted(
    where: str, found: Any, dtype: str | None, shape: Sequence[int | None] | None
) -> None:
    right = dtype is None or found.dtype == np.dtype(dtype)
    if right and shape is not None:
        right = len(shape) == len(found.shape) and all(
            wanted is None or wanted == length
            for wanted, length in zip(shape, found.shape, strict=True)
        )
    if not right:
        axes = "" if shape is None else [length or "any" for length in shape]
        said = f"{dtype or 'numbers'} {axes}".rstrip().replace("'", "")
        raise ValueError(f"{where}: holds {found.dtype} {list(found.shape)}; expected {said}")
