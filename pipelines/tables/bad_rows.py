"""What becomes of a row that is wrong: an error, or a count in the manifest. Never silence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

Action = Literal["error", "skip"]
# Reasons that do not speak of a row of the log.
_NOT_ROWS = ("no_rows", "empty_file", "truncated_file", "duplicate_item", "duplicate_category")


@dataclasses.dataclass
class BadRows:
    """Is told of every row that is wrong.

    Attributes:
        action: "error" raises at the first one, "skip" counts it.
        counts: rows left out, by reason.
        first: what was wrong with the first of each reason, in words that name file, line, field
            and value.
        left_out: rows that are right but not wanted, as `left_out_view`; never an error.
    """

    action: Action = "error"
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    first: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.action not in get_args(Action):
            raise ValueError(
                f"on_bad_rows is {self.action!r}; it must be one of {', '.join(get_args(Action))}"
            )

    def add(self, reason: str, message: str, count: int = 1) -> None:
        """Raises, or counts rows that the caller then leaves out.

        Args:
            reason: a name that stays the same from run to run, such as "unknown_event".
            message: what is wrong with the first of them: file, line, field and value.
            count: how many rows.

        Raises:
            ValueError: `action` is "error".
        """
        if self.action == "error":
            raise ValueError(f"{message}; mend it, or leave such rows out with on_bad_rows='skip'")
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.first.setdefault(reason, message)

    def leave_out(self, name: str, count: int) -> None:
        """Counts rows that the config does not want."""
        self.left_out[name] = self.left_out.get(name, 0) + count

    def num_rows(self) -> int:
        """Returns how many rows of the log have been left out so far."""
        wrong = [count for reason, count in self.counts.items() if reason not in _NOT_ROWS]
        return sum(wrong) + sum(self.left_out.values())

    def in_words(self) -> str:
        """Returns what has been left out so far and why, for the end of a message; "" if nothing.

        Rows that are wrong come with the first of each reason.
        """
        wanted = [f"{count} {name}" for name, count in self.left_out.items() if count]
        wrong = [f"{self.counts[name]} {name} (first: {self.first[name]})" for name in self.counts]
        return f"; left out: {', '.join(wanted + wrong)}" if wanted + wrong else ""

    def merge(self, others: Iterable[BadRows]) -> None:
        """Adds what others have counted, in their order."""
        for other in others:
            for reason, count in other.counts.items():
                self.counts[reason] = self.counts.get(reason, 0) + count
                self.first.setdefault(reason, other.first[reason])
            for name, count in other.left_out.items():
                self.leave_out(name, count)

    def report(self) -> Mapping[str, Any]:
        """Returns `{reason: {"rows": count, "first": message}}`, sorted by reason, for JSON."""
        return {
            reason: {"rows": self.counts[reason], "first": self.first[reason]}
            for reason in sorted(self.counts)
        }
