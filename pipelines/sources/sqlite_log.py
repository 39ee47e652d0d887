"""A log in a table, view or query of an SQLite file, opened for reading alone."""

from __future__ import annotations

import dataclasses

from pipelines.sources.fields import input_files
from pipelines.sources.own_log import LogConfig, read_log
from pipelines.tables import SqliteTable
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import RawDataset
from pipelines.tables.sqlite_table import wal_file


@dataclasses.dataclass(frozen=True)
class Config(LogConfig):
    """Fields of the source, beside those of `LogConfig`; `interactions` names the SQLite file.

    Attributes:
        table: table or view of the log; its rows come in the order in which they were added.
        query: a SELECT instead, whose order is kept; it may do nothing but read this file.
        catalogue_table: table or view of the catalogue, in the same file as the log.
        catalogue_query: a SELECT instead.
    """

    table: str = ""
    query: str = ""
    catalogue_table: str = ""
    catalogue_query: str = ""


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue.

    Raises:
        ValueError: see `read_log`; a catalogue both in this file and in another.
    """
    inputs, items = {}, []
    for name, path in input_files(config.folder, config.interactions, "the log"):
        # Changes that were not written back yet are read as well.
        wal = wal_file(str(path))
        if wal is not None:
            inputs[f"{name}-wal"] = wal
        if config.catalogue_table or config.catalogue_query:
            if config.catalogue:
                raise ValueError(
                    f"source.catalogue is {config.catalogue!r} and source.catalogue_table "
                    f"{config.catalogue_table or config.catalogue_query!r}; name one catalogue"
                )
            field = "source.catalogue_query"
            items.append(
                SqliteTable(str(path), name, config.catalogue_table, config.catalogue_query, field)
            )
    return read_log(
        config,
        bad_rows,
        lambda path, name: SqliteTable(str(path), name, config.table, config.query),
        items_of=items,
        further_inputs=inputs,
    )
