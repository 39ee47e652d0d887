"""Candidates of one request as columns of arrays: no object a candidate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from jaxtyping import Bool, Int, Int64


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Items that may be shown, and what is known of each.

    Attributes:
        columns: by name, an array with an entry a candidate; `item` is always there, int64.
    """

    columns: Mapping[str, np.ndarray]

    def __post_init__(self):
        if "item" not in self.columns:
            raise ValueError(f"columns: {sorted(self.columns)}; 'item' is missing")
        for name, column in self.columns.items():
            if len(column) != len(self.columns["item"]):
                raise ValueError(
                    f"columns: {name!r} has {len(column)} entries, 'item' has "
                    f"{len(self.columns['item'])}"
                )

    @classmethod
    def of(cls, item: Sequence[int] | Int[np.ndarray, " n"], **columns: np.ndarray) -> Self:
        """Returns candidates of items and further columns."""
        return cls({"item": np.asarray(item, np.int64), **columns})

    def __len__(self) -> int:
        return len(self.columns["item"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    @property
    def item(self) -> Int64[np.ndarray, " n"]:
        """The items' ids."""
        return self.columns["item"]

    def get(self, name: str, default: float) -> np.ndarray:
        """Returns a column, or one of `default` where there is none."""
        return self.columns[name] if name in self.columns else np.full(len(self), default)

    def take(self, chosen: Bool[np.ndarray, " n"] | Int[np.ndarray, " k"]) -> Self:
        """Returns some of the candidates, by a mask or by their places."""
        return type(self)({name: column[chosen] for name, column in self.columns.items()})

    def with_columns(self, columns: Mapping[str, np.ndarray]) -> Self:
        """Returns the candidates with further columns, or others in their place.

        Raises:
            ValueError: a column is of another length, or replaces `item`.
        """
        if "item" in columns:
            raise ValueError("columns: 'item' says what a candidate is, and stays")
        return type(self)({**self.columns, **columns})

    @classmethod
    def together(cls, parts: Sequence[Candidates]) -> Self:
        """Returns candidates one behind the other.

        A column that a part lacks is filled up with what says that nothing is known: numbers with
        NaN (whole ones with -1), truth with False, texts with "", other objects with None.
        """
        if not parts:
            return cls.of(np.zeros(0, np.int64))
        examples = {name: column for part in parts for name, column in part.columns.items()}
        columns = {
            name: np.concatenate(
                [part[name] if name in part else _nothing(column, len(part)) for part in parts]
            )
            for name, column in examples.items()
        }
        return cls(columns)


def _nothing(like: np.ndarray, number: int) -> np.ndarray:
    fill = {"f": np.nan, "i": -1, "u": 0, "b": False, "U": ""}.get(like.dtype.kind)
    return np.full((number, *like.shape[1:]), fill, like.dtype)
