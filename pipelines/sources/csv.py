"""Comma-separated files and their kin, also `.gz` and `.zst`: a row an interaction."""

from __future__ import annotations

import dataclasses

from pipelines.bad_rows import BadRows
from pipelines.interactions import RawDataset
from pipelines.readers import Delimited
from pipelines.sources.table import TableConfig, load_table


@dataclasses.dataclass(frozen=True)
class Config(TableConfig):
    """Fields of the source, beside those of every table.

    Attributes:
        separator: what stands between two fields.
        quote: what stands around a field that holds separators or newlines; empty: nothing does.
        encoding: a Python codec's name.
        header: whether the first line names the columns; else they are "1", "2", ….
    """

    separator: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    header: bool = True


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Opens the log and reads the catalogue.

    Raises:
        ValueError: a field that cannot be, a missing file, or a mistake in the catalogue.
    """
    reader = Delimited(config.separator, config.quote, config.encoding, config.header)
    return load_table(config, reader, bad_rows)
