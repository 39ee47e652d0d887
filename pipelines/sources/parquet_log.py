"""Any Parquet log: one row an interaction."""

from __future__ import annotations

import dataclasses

from pipelines.bad_rows import BadRows
from pipelines.interactions import RawDataset
from pipelines.sources.own_log import LogConfig, read_log
from pipelines.tables import ParquetTable


@dataclasses.dataclass(frozen=True)
class Config(LogConfig):
    """Fields of the source: those of `LogConfig`."""


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue.

    Raises:
        ValueError: see `read_log`.
    """
    return read_log(config, bad_rows, lambda path, name: ParquetTable(str(path), name))
