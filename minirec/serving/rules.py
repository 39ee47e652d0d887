"""Rules about the catalogue's columns, such as `category in …` and `price < …`."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from minirec.serving.refusals import BadRequestError

_NUMERIC = ("<", "<=", ">", ">=")
OPERATORS = ("in", "not_in", *_NUMERIC)
"""What a rule may say of a column; of several values that an item has one is enough."""

_KEPT = 64  # masks
_MOST_VALUES = 1000
_EXACT = 2.0**53  # floats below hold every whole number


@dataclasses.dataclass(frozen=True)
class Rule:
    """What an item's column must say.

    Attributes:
        column: its name.
        op: one of `OPERATORS`.
        value: texts for "in" and "not_in", a number for the others.
    """

    column: str
    op: str
    value: tuple[str, ...] | float

    @classmethod
    def parse(cls, value: Any, field: str) -> Rule:
        """Returns the rule of `{"column": …, "op": …, "value": …}`.

        Raises:
            BadRequestError: it is none.
        """
        if not isinstance(value, Mapping) or set(value) != {"column", "op", "value"}:
            raise BadRequestError(field, "must be an object of column, op and value")
        column, op, given = value["column"], value["op"], value["value"]
        if not isinstance(column, str):
            raise BadRequestError(f"{field}.column", f"{column!r}; must be a text")
        if op not in OPERATORS:
            raise BadRequestError(f"{field}.op", f"{op!r}; must be one of {', '.join(OPERATORS)}")
        if op in _NUMERIC:
            if isinstance(given, bool) or not isinstance(given, int | float):
                raise BadRequestError(f"{field}.value", f"{given!r}; {op} needs a number")
            if not math.isfinite(given):
                raise BadRequestError(f"{field}.value", f"{given!r}; must be finite")
            return cls(column, op, float(given))
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise BadRequestError(f"{field}.value", f"{op} needs a list of texts")
        if len(texts) > _MOST_VALUES:
            raise BadRequestError(f"{field}.value", f"{len(texts)} values; at most {_MOST_VALUES}")
        return cls(column, op, tuple(sorted(set(texts))))


class Columns:
    """What the catalogue says of its items, beside titles: by column, values of each item."""

    def __init__(
        self,
        attributes: Iterable[Sequence[str]],
        columns: Mapping[str, Sequence[str | float | None]] | None = None,
    ):
        """Takes attributes apart.

        Args:
            attributes: of each item, written `name=value`; a name may come several times.
            columns: further columns by their names, a text, a finite number or None an item; a
                whole number is written without `.0`.
        """
        rows: dict[str, list[int]] = collections.defaultdict(list)
        values: dict[str, list[str]] = collections.defaultdict(list)
        self._num_items = 0
        for item, entries in enumerate(attributes):
            self._num_items = item + 1
            for entry in entries:
                name, equals, value = entry.partition("=")
                if not equals:
                    continue
                rows[name].append(item)
                values[name].append(value)
        for name, column in (columns or {}).items():
            known = [(item, value) for item, value in enumerate(column) if value is not None]
            rows[name] = [item for item, _ in known]
            values[name] = [spelled(value) for _, value in known]
        self._rows = {name: np.array(row, np.int64) for name, row in rows.items()}
        self._values = {name: np.array(value, object) for name, value in values.items()}
        self._lock = threading.Lock()
        self._masks: collections.OrderedDict[tuple[Rule, ...], np.ndarray]
        self._masks = collections.OrderedDict()

    def and_later(
        self,
        attributes: Sequence[Sequence[str]],
        columns: Sequence[Mapping[str, str | float]],
    ) -> Columns:
        """Returns the columns with more items behind these.

        Args:
            attributes: of each further item, as above.
            columns: what further columns say of each, by their names.
        """
        entries = [
            [*own, *(f"{name}={spelled(value)}" for name, value in further.items())]
            for own, further in zip(attributes, columns, strict=True)
        ]
        later, both = Columns(entries), Columns([])
        both._num_items = self._num_items + later._num_items
        for name in {**self._rows, **later._rows}:
            parts = [
                (one._rows[name] + offset, one._values[name])
                for one, offset in ((self, 0), (later, self._num_items))
                if name in one._rows
            ]
            both._rows[name] = np.concatenate([rows for rows, _ in parts])
            both._values[name] = np.concatenate([values for _, values in parts])
        return both

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that there are."""
        return tuple(sorted(self._rows))

    def of(self, item: int) -> dict[str, list[str]]:
        """Returns what the columns say of an item."""
        found = {}
        for name, rows in self._rows.items():
            first, last = np.searchsorted(rows, [item, item + 1])
            if first < last:
                found[name] = self._values[name][first:last].tolist()
        return found

    def mask(self, rules: tuple[Rule, ...], num_items: int) -> Bool[np.ndarray, " N"]:
        """Returns which items all rules allow; an item that lacks a column no rule on it allows.

        Args:
            rules: at least one.
            num_items: N; nothing is known of those past the catalogue's first.

        Raises:
            BadRequestError: there is no such column, or it holds no numbers to compare.
        """
        with self._lock:
            found = self._masks.get(rules)
            if found is None:
                found = np.ones(self._num_items, bool)
                for place, rule in enumerate(rules):
                    found &= self._one(rule, f"allow[{place}]")
                self._masks[rules] = found
                while len(self._masks) > _KEPT:
                    self._masks.popitem(last=False)
        return np.pad(found, (0, num_items - len(found)))

    def _one(self, rule: Rule, field: str) -> Bool[np.ndarray, " N"]:
        if rule.column not in self._rows:
            known = ", ".join(self.names) or "none"
            raise BadRequestError(
                f"{field}.column", f"no column {rule.column!r}; there are: {known}"
            )
        rows, values = self._rows[rule.column], self._values[rule.column]
        allowed = np.zeros(self._num_items, bool)
        if isinstance(rule.value, tuple):
            wanted = np.isin(values.astype(str), rule.value)
            if rule.op == "in":
                allowed[rows[wanted]] = True
            else:
                allowed[rows] = True
                allowed[rows[wanted]] = False
            return allowed
        numbers = np.array([_number(value) for value in values])
        if np.isnan(numbers).all():
            raise BadRequestError(
                f"{field}.op", f"{rule.op!r}: column {rule.column!r} holds no numbers"
            )
        compare = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
        allowed[rows[compare[rule.op](numbers, rule.value)]] = True
        return allowed


def parse_rules(value: Any, field: str = "allow") -> tuple[Rule, ...]:
    """Returns the rules of a list of objects, in an order that does not depend on the list's.

    Raises:
        BadRequestError: one of them is no rule.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRequestError(field, "must be a list of rules")
    rules = {Rule.parse(entry, f"{field}[{place}]") for place, entry in enumerate(value)}
    return tuple(sorted(rules, key=lambda rule: json.dumps(dataclasses.astuple(rule))))


def spelled(value: str | float) -> str:
    """Returns a column's value as rules and people write it: a whole number without `.0`.

    Args:
        value: a text, or a finite number.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    return str(value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
