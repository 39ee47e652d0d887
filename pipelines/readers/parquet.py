"""Reads Parquet, some row groups at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from pipelines.bad_rows import BadRows
from pipelines.readers.reader import check_columns


@dataclasses.dataclass(frozen=True)
class Parquet:
    """A Parquet file.

    Attributes:
        chunk_rows: rows that are read at one time.
    """

    chunk_rows: int = 1_000_000

    def frames(
        self, path: Path, columns: Sequence[str], bad_rows: BadRows
    ) -> Iterator[pl.DataFrame]:
        """Yields the rows; see `Reader.frames`. A row's `line` is its number, from 1.

        Raises:
            ValueError: a missing column, or a file that is empty, damaged or cut off.
        """
        num_rows = 0
        try:
            table = pl.scan_parquet(path, glob=False)
            check_columns(path, columns, table.collect_schema().names())
            batches = table.select(columns).collect_batches(
                chunk_size=self.chunk_rows, maintain_order=True
            )
            for frame in batches:
                lines = pl.int_range(num_rows + 1, num_rows + len(frame) + 1, eager=True)
                num_rows += len(frame)
                if len(frame):
                    yield frame.with_columns(lines.cast(pl.Int64).alias("line"))
        except (pl.exceptions.PolarsError, OSError) as error:
            message = f"{path}, row {num_rows + 1}: not a whole Parquet file: {error}"
            if not num_rows:  # The list of what is in it stands at its end: nothing can be read.
                raise ValueError(message) from error
            bad_rows.add("truncated_file", message)
        if not num_rows:
            raise ValueError(f"{path}: the file holds no rows")
