"""Blocks of whole lines from files of any size, plain, gzip or Zstandard."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import zstandard

_READ_BYTES = 1 << 18
# A record that is longer is no record, but a quote that nobody closed.
_LONGEST_RECORD = 1 << 22


class DamagedFileError(ValueError):
    """A compressed file that ends in the middle or does not decompress."""


class Block(NamedTuple):
    """Some whole lines of a file.

    Attributes:
        data: the lines, each with its newline.
        line: number of the first, from 1.
    """

    data: bytes
    line: int


def line_blocks(path: Path, block_bytes: int, quote: bytes = b"") -> Iterator[Block]:
    """Yields a file as blocks of whole lines, without a byte order mark.

    Args:
        path: the file.
        block_bytes: about how large blocks are.
        quote: between two of these a newline ends no record, and so no block; empty: none does.

    Raises:
        DamagedFileError: after all whole lines that could be decompressed.
        ValueError: the file is UTF-16 or UTF-32.
    """
    kept: list[bytes] = []
    size, line, first = 0, 1, True
    wanted = block_bytes
    damage: DamagedFileError | None = None
    stream = pieces(path)
    while True:
        try:
            piece = next(stream, b"")
        except DamagedFileError as error:
            damage, piece = error, b""
        if first and piece:
            piece, first = _without_mark(path, piece), False
        kept.append(piece)
        size += len(piece)
        if piece and size < wanted:
            continue
        data = b"".join(kept)
        if not piece and damage is None:
            if data:
                yield Block(data if data.endswith(b"\n") else data + b"\n", line)
            return
        cut = data.rfind(b"\n") + 1 if damage else _last_record_end(data, quote)
        if cut:
            yield Block(data[:cut], line)
            line += data.count(b"\n", 0, cut)
        if damage is not None:
            raise DamagedFileError(f"{path}, line {line}: {damage}")
        kept = [data[cut:]]
        size = len(data) - cut
        wanted = size + block_bytes


def _last_record_end(data: bytes, quote: bytes) -> int:
    """Returns where the last record ends; 0 if no record does."""
    end = data.rfind(b"\n") + 1
    if not quote or quote not in data:
        return end
    characters = np.frombuffer(data, np.uint8)
    inside = np.bitwise_xor.accumulate((characters == quote[0]).view(np.uint8))
    ends = np.flatnonzero((characters == ord("\n")) & (inside == 0))
    last = int(ends[-1]) + 1 if len(ends) else 0
    return last if len(data) - last <= _LONGEST_RECORD else end


def _without_mark(path: Path, data: bytes) -> bytes:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(
            f"{path}, line 1: begins with {data[:2]!r}, so it is UTF-16 or UTF-32; save it as UTF-8"
        )
    return data.removeprefix(b"\xef\xbb\xbf")


def pieces(path: Path) -> Iterator[bytes]:
    """Yields the decompressed bytes of a file.

    Raises:
        DamagedFileError: after all that could be decompressed.
    """
    with path.open("rb") as file:
        if path.name.endswith(".gz"):
            yield from _decompressed(file, lambda: zlib.decompressobj(wbits=31))
        elif path.name.endswith(".zst"):
            yield from _decompressed(file, lambda: zstandard.ZstdDecompressor().decompressobj())
        else:
            while piece := file.read(_READ_BYTES):
                yield piece


def _decompressed(file: BinaryIO, new: Callable[[], Any]) -> Iterator[bytes]:
    """Decompresses one stream after the other: a file may hold several, one behind the other."""
    decompressor = None
    while True:
        data = file.read(_READ_BYTES)
        if not data:
            if decompressor is not None and not decompressor.eof:
                raise DamagedFileError("the file ends in the middle of a compressed block")
            return
        while data:
            if decompressor is None or decompressor.eof:
                decompressor = new()
            try:
                piece = decompressor.decompress(data)
            except (zlib.error, zstandard.ZstdError) as error:
                raise DamagedFileError(f"the file does not decompress: {error}") from error
            if piece:
                yield piece
            data = decompressor.unused_data if decompressor.eof else b""
