"""Parquet files: a row an interaction."""

from __future__ import annotations

import dataclasses

from pipelines.bad_rows import BadRows
from pipelines.interactions import RawDataset
from pipelines.readers import Parquet
from pipelines.sources.table import TableConfig, load_table


@dataclasses.dataclass(frozen=True)
class Config(TableConfig):
    """Fields of the source: those of every table. Dates and times need no `time_unit`."""


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue.

    Raises:
        ValueError: a field that cannot be, a missing file, or a mistake in the catalogue.
    """
    return load_table(config, Parquet(), bad_rows)
