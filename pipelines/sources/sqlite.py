"""SQLite databases: a row of a table an interaction."""

from __future__ import annotations

import dataclasses

from pipelines.bad_rows import BadRows
from pipelines.interactions import RawDataset
from pipelines.readers import Sqlite
from pipelines.sources.table import TableConfig, load_table


@dataclasses.dataclass(frozen=True)
class Config(TableConfig):
    """Fields of the source, beside those of every table.

    Attributes:
        table: name of the table or view; empty: the only one there is.
    """

    table: str = ""


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue.

    Raises:
        ValueError: a field that cannot be, a missing file, or a mistake in the catalogue.
    """
    return load_table(config, Sqlite(config.table), bad_rows)
