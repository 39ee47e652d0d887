"""Readers of files with columns, one file a format; sources of logs and catalogues share them.

A reader yields a file's rows some hundred thousand at a time, the asked columns as they stand in
the file (text where the format has only text), and `line`, by which a person finds the row.
"""

from __future__ import annotations

from pipelines.readers.delimited import Delimited
from pipelines.readers.json_lines import JsonLines
from pipelines.readers.parquet import Parquet
from pipelines.readers.reader import Reader
from pipelines.readers.sqlite import Sqlite

__all__ = ["Delimited", "JsonLines", "Parquet", "Reader", "Sqlite", "reader_for"]

_SUFFIXES: dict[str, Reader] = {
    ".csv": Delimited(),
    ".tsv": Delimited(separator="\t"),
    ".jsonl": JsonLines(),
    ".ndjson": JsonLines(),
    ".parquet": Parquet(),
}


def reader_for(name: str) -> Reader:
    """Returns the reader of a file by the end of its name; `.gz` and `.zst` may follow.

    Raises:
        ValueError: the name ends in nothing that is known.
    """
    stem = name.removesuffix(".gz").removesuffix(".zst").lower()
    for suffix, reader in _SUFFIXES.items():
        if stem.endswith(suffix):
            return reader
    raise ValueError(
        f"{name}: its format is not known; the name must end in {', '.join(_SUFFIXES)}, and .gz or "
        ".zst may follow"
    )
