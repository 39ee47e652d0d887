"""Any CSV log: a header (or names in the config), one row an interaction; also `.gz`, `.zst`."""

from __future__ import annotations

import dataclasses

from pipelines.sources.own_log import LogConfig, csv_table, read_log
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import RawDataset


@dataclasses.dataclass(frozen=True)
class Config(LogConfig):
    """Fields of the source, beside those of `LogConfig`.

    Attributes:
        header: names of the log's columns, where its files have no header.
    """

    header: tuple[str, ...] = ()


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue.

    Raises:
        ValueError: see `read_log`.
    """
    return read_log(
        config,
        bad_rows,
        lambda path, name: csv_table(
            path, name, config.delimiter, config.quote, config.encoding, config.header
        ),
    )
