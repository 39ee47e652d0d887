"""Any log of JSON lines: one object an interaction; also `.gz`, `.zst`."""

from __future__ import annotations

import dataclasses

from pipelines.sources.own_log import LogConfig, read_log
from pipelines.tables import JsonlTable
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import RawDataset


@dataclasses.dataclass(frozen=True)
class Config(LogConfig):
    """Fields of the source: those of `LogConfig`; a column is a key of the objects."""


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue.

    Raises:
        ValueError: see `read_log`.
    """
    return read_log(
        config, bad_rows, lambda path, name: JsonlTable(str(path), name, config.encoding)
    )
