"""Any Parquet log: one row an interaction."""

from __future__ import annotations

import dataclasses

from pipelines.sources.own_log import LogConfig, read_log
from pipelines.tables import ParquetTable
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import RawDataset


@dataclasses.dataclass(frozen=True)
class Config(LogConfig):
    """Fields of the source: those of `LogConfig`."""


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue.

    Raises:
        ValueError: see `read_log`.
    """
    return read_log(config, bad_rows, lambda path, name: ParquetTable(str(path), name))
