"""Files of rows and named columns, read block by block in bounded memory, one file a format.

A table gives its rows as they stand in the file and tells of those that cannot be read. What the
columns mean is a source's business.
"""

from pipelines.tables.csv_table import CsvTable
from pipelines.tables.jsonl_table import JsonlTable
from pipelines.tables.parquet_table import ParquetTable
from pipelines.tables.pylines_table import PyLinesTable
from pipelines.tables.sqlite_table import SqliteTable
from pipelines.tables.table import Kind, Problem, Rows, Table, flush
from pipelines.tables.text_file import text_blocks

__all__ = [
    "CsvTable",
    "JsonlTable",
    "Kind",
    "ParquetTable",
    "Problem",
    "PyLinesTable",
    "Rows",
    "SqliteTable",
    "Table",
    "flush",
    "text_blocks",
]
