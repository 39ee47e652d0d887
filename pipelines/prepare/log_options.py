"""What a config asks of a log before it is split: a window of time, ties, duplicates, a k-core."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from pipelines.prepare.kcore import Ks, as_ks, is_on
from pipelines.tables.interactions import TICKS_PER_SECOND

TIES = ("log", "shuffled")
DUPLICATES = ("keep", "drop_exact", "drop_consecutive", "first")
DEFAULTS: Mapping[str, Any] = {
    "k_core": 0,
    "ties": "log",
    "duplicates": "keep",
    "time_from": "",
    "time_to": "",
}
"""What the fields of a config are that lacks them; nothing is done to the log then."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_DATE_HINT = "a date such as 2014-05-03 or 2014-05-03T12:00:00+02:00, or '' for no bound"


@dataclasses.dataclass(frozen=True)
class LogOptions:
    """What is done to a log, in this order.

    Attributes:
        time_from: rows before this time are not part of the log; nanoseconds since 1970 UTC, None:
            no bound.
        time_to: nor are rows at this time or after it.
        ties: how a user's events of equal time stand, see `pipelines.prepare.ties`.
        duplicates: which events go, see `pipelines.prepare.duplicates`.
        k_core: least interactions of a user and of an item; 0 and 1 are off.
    """

    time_from: int | None = None
    time_to: int | None = None
    ties: str = "log"
    duplicates: str = "keep"
    k_core: Ks = (0, 0)

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> LogOptions:
        """Returns the options that a config's fields stand for.

        Args:
            config: the fields of `DEFAULTS`; `k_core` is a whole number, or two: of users and of
                items.

        Raises:
            ValueError: a field holds what it cannot; the message names it.
        """
        for field, known in (("ties", TIES), ("duplicates", DUPLICATES)):
            if config[field] not in known:
                raise ValueError(
                    f"config.{field} is {config[field]!r}; it must be one of {', '.join(known)}"
                )
        start, stop = (_nanoseconds(field, config[field]) for field in ("time_from", "time_to"))
        if start is not None and stop is not None and start >= stop:
            raise ValueError(
                f"config.time_from is {config['time_from']!r}, config.time_to "
                f"{config['time_to']!r}; time_from must be earlier: rows from it on and before "
                "time_to are taken"
            )
        return cls(start, stop, config["ties"], config["duplicates"], as_ks(config["k_core"]))

    @property
    def takes_core(self) -> bool:
        """Whether users or items go that have too few interactions."""
        return is_on(self.k_core)

    @property
    def has_window(self) -> bool:
        """Whether rows go for their time."""
        return self.time_from is not None or self.time_to is not None

    def changing(self) -> list[str]:
        """Returns the fields that are set and give other rows, or another order, than the log."""
        found = {
            "k_core": self.takes_core,
            "ties": self.ties != "log",
            "duplicates": self.duplicates != "keep",
            "time_from": self.time_from is not None,
            "time_to": self.time_to is not None,
        }
        return [field for field, is_set in found.items() if is_set]

    def comparing_times(self) -> list[str]:
        """Returns the fields that are set and need a log that has times."""
        without = ["k_core"] if self.duplicates == "drop_exact" else ["k_core", "duplicates"]
        return [field for field in self.changing() if field not in without]


AS_IT_IS = LogOptions()
"""Nothing is done to the log."""


def _nanoseconds(field: str, value: Any) -> int | None:
    """Returns an ISO 8601 date or date-time as nanoseconds since 1970 UTC; None for ""."""
    if value == "":
        return None
    try:
        time = datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"config.{field} is {value!r}; it must be {_DATE_HINT}") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    if not 1970 <= time.year <= 2200:  # Nanoseconds of 64 bits end in 2262.
        raise ValueError(f"config.{field} is {value!r}; it must lie in the years 1970 to 2200")
    return (time - _EPOCH) // _MICROSECOND * (TICKS_PER_SECOND // 1_000_000)
