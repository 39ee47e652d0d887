"""Parquet, in slices of its rows, with the types that the file has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from pipelines.tables import table as sizes
from pipelines.tables.table import Kind, Problem, Rows, no_rows, without_rows

# A panic of Polars, which damage can bring about, does not derive from `Exception`.
_DAMAGED = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


# How many rows are read at once follows from how large those before them were; up to 268 bytes a
# row it is `BLOCK_ROWS`.
_FIRST_ROWS = 64
_GROWTH = 64
_MOST_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class ParquetTable:
    """A Parquet file.

    Attributes:
        path: where it lies.
        name: what errors call it.
    """

    path: str
    name: str

    place = "row"

    def columns(self) -> list[str]:
        """Returns the schema's names.

        Raises:
            ValueError: the file is not Parquet, or was cut off: what tells its columns and rows
                stands at its end.
        """
        return list(self._scan().collect_schema())

    def rows(self, columns: Mapping[str, Kind]) -> Iterator[Rows]:
        """Yields the rows; text is String whichever way it is stored. See `Table.rows`.

        Raises:
            ValueError: a column of a type that it cannot be read for, a damaged file, or a row of
                more than `_MOST_BYTES`.
        """
        scan = self._scan()
        schema = scan.collect_schema()
        for name, kind in columns.items():
            self._check_type(name, kind, schema[name])
        selected = scan.select(
            pl.col(name).cast(pl.String)
            if _is_text(schema[name]) and schema[name] != pl.Binary
            else pl.col(name)
            for name in columns
        )
        start, most_rows = 0, min(_FIRST_ROWS, sizes.BLOCK_ROWS)
        while True:
            try:
                frame = selected.slice(start, most_rows).collect()
            except _DAMAGED as error:
                raise ValueError(
                    f"{self.path}: the file is damaged: rows after row {start} cannot be read "
                    f"({_first_line(error)}); get it anew"
                ) from error
            if frame.is_empty():
                break
            # What stands in a file once may be the text of every row: read, it takes no memory yet.
            num_bytes = max(int(frame.estimated_size()), 1)
            most_rows = max(len(frame) * _MOST_BYTES // num_bytes, 1)
            most_rows = min(most_rows, _GROWTH * len(frame), sizes.BLOCK_ROWS)
            for piece in _pieces(frame):
                if piece.estimated_size() > _MOST_BYTES:
                    raise ValueError(
                        f"{self.path}, row {start + 1}: longer than {_MOST_BYTES >> 20} MiB"
                    )
                yield self._rows(piece, start + 1)
                start += len(piece)
        if not start:
            yield no_rows(columns, without_rows(self.name, has_header=True))

    def _rows(self, frame: pl.DataFrame, first_row: int) -> Rows:
        line = np.arange(first_row, first_row + len(frame))
        problems: list[Problem] = []
        for name in frame.columns:
            if frame[name].dtype != pl.Binary:
                continue
            texts = _decoded(frame[name])
            wrong = (texts.is_null() & frame[name].is_not_null()).to_numpy()
            frame = frame.with_columns(texts)
            if wrong.any():
                row = int(line[wrong.argmax()])
                message = f"{self.name}, row {row}: the bytes of {name!r} are not UTF-8"
                problems.append(Problem(row, "not_utf8", message, int(wrong.sum())))
                frame, line = frame.filter(pl.Series(~wrong)), line[~wrong]
        return Rows(frame, line, problems)

    def _scan(self) -> pl.LazyFrame:
        try:
            scan = pl.scan_parquet(self.path, glob=False, hive_partitioning=False)
            scan.collect_schema()
        except _DAMAGED as error:
            raise ValueError(
                f"{self.path}: not a whole Parquet file ({_first_line(error)}); was it cut off? "
                "Its end says where everything lies, so that nothing of it can be read"
            ) from error
        return scan

    def _check_type(self, name: str, kind: Kind, dtype: pl.DataType) -> None:
        is_whole, is_text = dtype.is_integer(), _is_text(dtype)
        may_be = {
            "id": (is_whole or is_text, "whole numbers or text"),
            "event": (dtype.is_numeric() or is_text, "numbers or text"),
            "number": (dtype.is_numeric() or is_text, "numbers or text"),
            "time": (
                dtype.is_numeric() or is_text or dtype == pl.Date or isinstance(dtype, pl.Datetime),
                "numbers, dates, date-times or text",
            ),
            "text": (
                _is_simple(dtype) or (isinstance(dtype, pl.List) and _is_simple(_inner(dtype))),
                "text, numbers or lists of them",
            ),
            "list": (
                _is_simple(dtype) or (isinstance(dtype, pl.List) and _is_simple(_inner(dtype))),
                "text, numbers or lists of them",
            ),
            "plain": (_is_simple(dtype), "text or numbers"),
        }
        is_right, types = may_be[kind]
        if not is_right:
            hint = "; a rounded id may be another one" if kind == "id" and dtype.is_float() else ""
            raise ValueError(
                f"{self.path}: column {name!r} is of type {dtype}; it must hold {types}{hint}"
            )


def _pieces(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The frame in parts of `_MOST_BYTES` at most, but for a row that alone has more."""
    if len(frame) < 2 or frame.estimated_size() <= _MOST_BYTES:
        yield frame
    else:
        half = len(frame) // 2
        yield from _pieces(frame[:half])
        yield from _pieces(frame[half:])


def _decoded(values: pl.Series) -> pl.Series:
    """Bytes as text, null for what is not UTF-8."""

    def text(value: bytes | None) -> str | None:
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            return None

    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        return pl.Series(values.name, map(text, values), pl.String)


def _is_text(dtype: pl.DataType) -> bool:
    # A column without a single value may have no type.
    is_plain = dtype in (pl.String, pl.Binary, pl.Null)
    return is_plain or isinstance(dtype, pl.Categorical | pl.Enum)


def _is_simple(dtype: pl.DataType) -> bool:
    return _is_text(dtype) or dtype.is_numeric() or dtype == pl.Boolean


def _inner(dtype: pl.List) -> pl.DataType:
    inner = dtype.inner
    return inner if isinstance(inner, pl.DataType) else inner()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
