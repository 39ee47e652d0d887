"""Sources of interaction logs, one file each.

A source is a module with a frozen dataclass `Config` (its fields, with defaults) and a function
`load(config: Config, bad_rows: BadRows) -> RawDataset`. Adding one adds a file and a line to
`SOURCES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pipelines.sources.fields import from_mapping
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import RawDataset

SOURCES = {
    "csv": "pipelines.sources.csv_log",
    "generated": "pipelines.sources.generated",
    "jsonl": "pipelines.sources.jsonl_log",
    "minionerec": "pipelines.sources.minionerec",
    "parquet": "pipelines.sources.parquet_log",
    "pylines": "pipelines.sources.pylines_log",
    "recbole": "pipelines.sources.recbole",
    "retailrocket": "pipelines.sources.retailrocket",
    "sasrec": "pipelines.sources.sasrec",
    "sqlite": "pipelines.sources.sqlite_log",
    "watch_lists": "pipelines.sources.watch_lists",
}


def load(config: Mapping[str, Any], bad_rows: BadRows | None = None) -> RawDataset:
    """Opens the source that `config` names.

    Args:
        config: `name`, one of `SOURCES`, and that source's fields.
        bad_rows: is told of what is wrong in what is read at once (a catalogue, say); the log's
            parts are read later. None: anything wrong is an error.

    Raises:
        ValueError: an unknown name or field, or a mistake in the data; the message names the
            file, the place and the value.
    """
    fields = dict(config)
    name = fields.pop("name", None)
    if name not in SOURCES:
        raise ValueError(f"source.name is {name!r}; it must be one of {', '.join(SOURCES)}")
    module = importlib.import_module(SOURCES[name])
    return module.load(
        from_mapping(module.Config, fields, f"source {name!r}"), bad_rows or BadRows("error")
    )
