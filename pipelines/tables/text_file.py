"""A text file as blocks of whole lines: decompressed, decoded to UTF-8, line ends made one."""

from __future__ import annotations

import codecs
import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import zstandard

from pipelines.tables import table as sizes

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
# Skippable frames, which parallel compressors write at the beginning.
_ZSTD_SKIPPABLE = tuple(bytes([byte]) + b"\x2a\x4d\x18" for byte in range(0x50, 0x60))
_UTF8_MARK = codecs.BOM_UTF8
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Compressed bytes at a time: they may become 1,032 times as many in gzip, and in Zstandard 32,768
# times (a block of 128 KiB that repeats one byte takes 4): 16 and 64 MiB come out at most.
_GZIP_PIECE = 16 << 10
_ZSTD_PIECE = 2 << 10
_ZSTD_WINDOW = 128 << 20  # what the zstd program itself accepts without --long


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _TruncatedError(Exception):
    """The file ends in the middle of a compressed block."""


@dataclasses.dataclass(frozen=True)
class TextBlock:
    """Whole lines of a file.

    Attributes:
        data: UTF-8, but for bytes of the file that are not; every line ends in "\\n".
        first_line: number of the first line, from 1.
        num_lines: how many there are.
        truncated: the compressed file ends here, in the middle; the rest of a line is left out.
    """

    data: bytes
    first_line: int
    num_lines: int
    truncated: bool = False


def check_encoding(encoding: str) -> None:
    """Raises ValueError if Python does not know a text encoding of this name."""
    try:
        "".encode(encoding)
    except LookupError:
        raise ValueError(
            f"encoding is {encoding!r}, which is not known; it must be one such as 'utf-8', "
            "'latin-1' or 'cp1252'"
        ) from None


def text_blocks(
    path: str, encoding: str = "utf-8", block_bytes: int | None = None
) -> Iterator[TextBlock]:
    """Yields a file's lines; what begins as gzip or Zstandard does is decompressed.

    A byte order mark is taken off and CRLF becomes LF. What is not valid text in `encoding` comes
    through as the bytes it was, which are not valid UTF-8 then.

    Args:
        path: the file.
        encoding: any that Python knows.
        block_bytes: about how much at a time; default `BLOCK_BYTES`.

    Raises:
        ValueError: the file is in UTF-16, or compressed and damaged, or has a line of more than
            `MAX_LINE_BYTES`.
    """
    block_bytes = block_bytes or sizes.BLOCK_BYTES
    buffer: list[bytes] = []
    size, line, is_truncated = 0, 1, False
    open_line = 0  # bytes of the last line, which has no end yet
    try:
        for piece in _short_pieces(_decoded(path, encoding, block_bytes)):
            first, last = piece.find(b"\n"), piece.rfind(b"\n")
            if open_line + (len(piece) if first < 0 else first) > sizes.MAX_LINE_BYTES:
                lines_before = sum(part.count(b"\n") for part in buffer)
                raise sizes.line_too_long(path, line + lines_before)
            buffer.append(piece)
            size += len(piece)
            open_line = open_line + len(piece) if last < 0 else len(piece) - last - 1
            if size < block_bytes or open_line == size:
                continue
            data = b"".join(buffer)
            cut = size - open_line
            buffer, size = [data[cut:]], open_line
            block = _block(data[:cut], line)
            yield block
            line += block.num_lines
    except _TruncatedError:
        is_truncated = True
    data = b"".join(buffer)
    if is_truncated:
        # A line that is cut off may look like a whole one.
        data = data[: data.rfind(b"\n") + 1]
    elif data and not data.endswith(b"\n"):
        data += b"\n"
    if data or is_truncated:
        yield _block(data, line, is_truncated)


def _short_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes, cut so that no line inside of a piece can be too long."""
    for piece in pieces:
        for start in range(0, len(piece), sizes.MAX_LINE_BYTES):
            yield piece[start : start + sizes.MAX_LINE_BYTES]


def _block(data: bytes, first_line: int, truncated: bool = False) -> TextBlock:
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    return TextBlock(data, first_line, data.count(b"\n"), truncated)


def _decoded(path: str, encoding: str, block_bytes: int) -> Iterator[bytes]:
    """The text in UTF-8, cut anywhere."""
    pieces = _decompressed(path, block_bytes)
    if codecs.lookup(encoding).name != "utf-8":
        decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        try:
            for piece in pieces:
                yield decoder.decode(piece).encode("utf-8", "surrogateescape")
            yield decoder.decode(b"", final=True).encode("utf-8", "surrogateescape")
        except UnicodeError as error:
            raise ValueError(f"{path}: is not text in encoding {encoding!r}: {error}") from error
        return
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= 4:
            break
    for mark, name in _OTHER_MARKS.items():
        if head.startswith(mark):
            raise ValueError(
                f"{path}: begins with the byte order mark of {name.upper()}; set "
                f"encoding={name!r}, or save it as UTF-8"
            )
    yield head.removeprefix(_UTF8_MARK)
    yield from pieces


def _decompressed(path: str, block_bytes: int) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        head = file.read(4)
        file.seek(0)
        decoder = _decompressor(path, head)
        if decoder is None:
            while data := file.read(block_bytes):
                yield data
            return
        rest = b""
        piece = _GZIP_PIECE if head.startswith(_GZIP) else _ZSTD_PIECE
        while data := rest or file.read(piece):
            rest = b""
            if decoder.eof:  # one more stream, or zeros that fill up a tape's block
                data = data.lstrip(b"\0")
                if not data:
                    continue
                decoder = _decompressor(path, head)
                assert decoder is not None
            try:
                text = decoder.decompress(data)
            except Exception as error:  # each library has its own
                if "requires too much memory" in str(error):
                    raise ValueError(
                        f"{path}: compressed with a window of more than {_ZSTD_WINDOW >> 20} MiB; "
                        "compress it without --long or --ultra"
                    ) from error
                raise ValueError(
                    f"{path}: the compressed file is damaged ({error}); nothing says which of its "
                    "rows are right: get it anew"
                ) from error
            if decoder.eof:
                rest = decoder.unused_data
            if text:
                yield text
        if not decoder.eof:
            raise _TruncatedError


def _decompressor(path: str, head: bytes) -> _Decompressor | None:
    """A new one for a stream that begins with `head`, or None where it is not compressed."""
    if head.startswith(_GZIP):
        return zlib.decompressobj(wbits=31)
    if head.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
        return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
    suffix = Path(path).suffix.lower()
    if suffix in (".bz2", ".xz", ".zip", ".7z", ".lz4", ".snappy", ".z"):
        raise ValueError(f"{path}: {suffix} is not read; compress it as .gz or .zst")
    if head and suffix in (".gz", ".zst"):
        raise ValueError(f"{path}: does not begin as a {suffix} file does; is it named wrongly?")
    return None
