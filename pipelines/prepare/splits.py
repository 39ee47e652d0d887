"""Four ways to split a log into training sequences and evaluation views.

All of them work on columns grouped by user, oldest first; `offsets[u]:offsets[u + 1]` are the
events of user `u`. Positions are absolute. A view `(user, start, stop)` has the events
`start:stop` as its history and event `stop` as its target.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Int

from pipelines.tables.interactions import GivenSplit

SPLITS = ("leave_one_out", "global_time", "per_user_ratio", "as_given")
_FIELDS = {
    "leave_one_out": (),
    "global_time": ("fractions", "timestamps"),
    "per_user_ratio": ("valid", "test"),
    "as_given": (),
}


@dataclasses.dataclass(frozen=True)
class Split:
    """Where each interaction goes.

    Attributes:
        train_sequences: int64 `[S, 3]` (user, start, stop); every training interaction lies in
            exactly one, no other interaction lies in any.
        valid: int64 `[n, 3]` views.
        test: int64 `[n, 3]` views.
        counts: for the manifest. `train_interactions`, `valid_targets`, `test_targets`,
            `targets_without_history` (held out, but first of their user, so not a view) and
            `context_only` (only ever in a history of a given split) add up to all interactions.
            `users_not_evaluated` counts users without a validation or test view, be it that they
            are too short or that all their events are old.
    """

    train_sequences: Int[np.ndarray, "S 3"]
    valid: Int[np.ndarray, "n 3"]
    test: Int[np.ndarray, "n 3"]
    counts: dict[str, Any]

    @property
    def train(self) -> Int[np.ndarray, "n 3"]:
        """int64 `[n, 3]` views: every position of a training sequence with a history."""
        return train_views(self.train_sequences)


def train_views(sequences: Int[np.ndarray, "S 3"]) -> Int[np.ndarray, "n 3"]:
    """Returns the training views: every position of a training sequence but its first.

    Args:
        sequences: (user, start, stop).
    """
    start, stop = sequences[:, 1], sequences[:, 2]
    return _views(sequences[:, 0], start, start + 1, stop)


def make_split(
    config: Mapping[str, Any],
    offsets: Int[np.ndarray, " U+1"],
    time: Int[np.ndarray, " E"],
    *,
    ticks_per_second: int = 1,
    has_times: bool = True,
    given: GivenSplit | None = None,
) -> Split:
    """Splits a log as `config` says.

    Args:
        config: `name`, one of `SPLITS`, and that split's fields. `leave_one_out`: the last event
            of a user is the test target, the one before it the validation target; a user with
            fewer than 3 events only trains. `global_time`: either `fractions` (training,
            validation, test) of the events or two `timestamps`, in seconds, at which validation
            and test begin; events of one tick are never torn apart, all go to the later part.
            `per_user_ratio`: the last `test` of each user's events (default 0.1, at least one)
            and before them `valid` (the same); a user with fewer than 3 events only trains.
            `as_given`: what the data set brings along.
        offsets: first event of each user, and the number of events at the end.
        time: of each event, in ticks, not decreasing within a user.
        ticks_per_second: of `time`.
        has_times: whether times of two users can be compared.
        given: the data set's own split.

    Raises:
        ValueError: an unknown name or field, a field out of range, or a split that this data set
            cannot have.
    """
    fields = dict(config)
    name = fields.pop("name", None)
    if name not in SPLITS:
        raise ValueError(f"split.name is {name!r}; it must be one of {', '.join(SPLITS)}")
    for field in fields:
        if field not in _FIELDS[name]:
            known = ", ".join(_FIELDS[name]) or "none"
            raise ValueError(f"split.{field} is not a field of {name!r}; its fields: {known}")
    if name == "as_given":
        return _as_given(offsets, given)
    if name == "leave_one_out":
        length = np.diff(offsets)
        held_out = np.where(length >= 3, 1, 0)
        return _per_user(offsets, held_out, held_out)
    if name == "per_user_ratio":
        return _per_user_ratio(offsets, **fields)
    if not has_times:
        raise ValueError(
            "split 'global_time' needs times, which this source does not have; use "
            "'leave_one_out' or 'per_user_ratio'"
        )
    return _global_time(offsets, time, ticks_per_second, **fields)


def _per_user_ratio(offsets: np.ndarray, valid: float = 0.1, test: float = 0.1) -> Split:
    for field, value in (("valid", valid), ("test", test)):
        if not 0 < value < 1:
            raise ValueError(f"split.{field} is {value}; it must lie between 0 and 1")
    if valid + test >= 1:
        raise ValueError(f"split.valid + split.test is {valid + test}; it must be less than 1")
    length = np.diff(offsets)
    long_enough = length >= 3
    # The tiny amount keeps 0.1 * 30 from rounding down to 2.
    num_valid = np.where(long_enough, np.maximum(1, np.floor(length * valid + 1e-9)), 0)
    num_test = np.where(long_enough, np.maximum(1, np.floor(length * test + 1e-9)), 0)
    return _per_user(offsets, num_valid.astype(np.int64), num_test.astype(np.int64))


def _per_user(offsets: np.ndarray, num_valid: np.ndarray, num_test: np.ndarray) -> Split:
    """Holds out the last events of every user: `num_valid`, then `num_test`."""
    test_start = offsets[1:] - num_test
    return _from_starts(offsets, test_start - num_valid, test_start)


def _global_time(
    offsets: np.ndarray,
    time: np.ndarray,
    ticks_per_second: int,
    fractions: Sequence[float] | None = None,
    timestamps: Sequence[float] | None = None,
) -> Split:
    if timestamps is not None and fractions is not None:
        raise ValueError("split has both fractions and timestamps; give one of them")
    if timestamps is not None:
        is_pair = len(timestamps) == 2 and all(map(_is_number, timestamps))
        if not is_pair or timestamps[0] > timestamps[1]:
            raise ValueError(
                f"split.timestamps is {list(timestamps)}; it must be two times in order, in "
                "seconds, at which validation and test begin"
            )
        # As written: 0.1 is a tenth, and no event between two ticks is older than the later one.
        valid_time, test_time = (
            math.ceil(Fraction(str(limit)) * ticks_per_second) for limit in timestamps
        )
    else:
        fractions = (0.8, 0.1, 0.1) if fractions is None else fractions
        if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(
                f"split.fractions is {list(fractions)}; it must be three positive numbers "
                "(training, validation, test) that add up to 1"
            )
        places = np.floor(np.cumsum(fractions)[:2] * len(time) + 1e-9).astype(np.int64)
        in_order = np.partition(time, places)
        valid_time, test_time = (int(in_order[place]) for place in places)
    # `reduceat` wants a user's first event; every user has one.
    older = [
        np.add.reduceat(time < limit, offsets[:-1], dtype=np.int64)
        for limit in (valid_time, max(valid_time, test_time))
    ]
    split = _from_starts(offsets, offsets[:-1] + older[0], offsets[:-1] + older[1])
    split.counts["valid_time"] = _seconds(valid_time, ticks_per_second)
    split.counts["test_time"] = _seconds(test_time, ticks_per_second)
    if not split.counts["train_interactions"]:
        low, high = (_seconds(int(end), ticks_per_second) for end in (time.min(), time.max()))
        raise ValueError(
            f"no event is older than {split.counts['valid_time']}, where split 'global_time' "
            "begins validation, so nothing is left to train on (times range over "
            f"{low}..{high})"
        )
    return split


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _seconds(ticks: int, ticks_per_second: int) -> int | float:
    """In seconds, a whole number where it is one."""
    return ticks / ticks_per_second if ticks % ticks_per_second else ticks // ticks_per_second


def _from_starts(offsets: np.ndarray, valid_start: np.ndarray, test_start: np.ndarray) -> Split:
    """Builds a split from where each user's validation and test events begin."""
    users, start = np.arange(len(offsets) - 1), offsets[:-1]
    sequences = np.stack([users, start, valid_start], axis=1)
    sequences = sequences[start < valid_start].astype(np.int64)
    # A user's first event has no history, so it is nobody's target.
    valid = _views(users, start, np.maximum(valid_start, start + 1), test_start)
    test = _views(users, start, np.maximum(test_start, start + 1), offsets[1:])
    without_history = int(((valid_start == start) & (start < offsets[1:])).sum())
    return _split(sequences, valid, test, offsets, without_history)


def _views(
    user: np.ndarray, start: np.ndarray, first: np.ndarray, last: np.ndarray
) -> Int[np.ndarray, "n 3"]:
    """Returns a view (user, start, stop) for every stop in `first:last`, range after range."""
    length = np.maximum(last - first, 0)
    views = np.empty((int(length.sum()), 3), np.int64)
    views[:, 0] = np.repeat(user, length)
    views[:, 1] = np.repeat(start, length)
    views[:, 2] = np.arange(len(views))
    views[:, 2] += np.repeat(first - (np.cumsum(length) - length), length)
    return views


def _as_given(offsets: np.ndarray, given: GivenSplit | None) -> Split:
    if given is None:
        raise ValueError(
            "split 'as_given' needs a source that brings its own split; use one of "
            f"{', '.join(name for name in SPLITS if name != 'as_given')}"
        )

    def with_user(ranges: np.ndarray) -> np.ndarray:
        user = np.searchsorted(offsets, ranges[:, 0], side="right") - 1
        return np.concatenate([user[:, None], ranges], axis=1).astype(np.int64)

    return _split(
        with_user(given.train_sequences),
        with_user(given.valid),
        with_user(given.test),
        offsets,
        0,
    )


def _split(
    sequences: np.ndarray,
    valid: np.ndarray,
    test: np.ndarray,
    offsets: np.ndarray,
    without_history: int,
) -> Split:
    """Adds the counts."""
    length = sequences[:, 2] - sequences[:, 1]
    num_train = int(length.sum())
    num_valid, num_test = _num_distinct(valid[:, 2]), _num_distinct(test[:, 2])
    is_evaluated = np.zeros(len(offsets) - 1, bool)
    is_evaluated[valid[:, 0]] = True
    is_evaluated[test[:, 0]] = True
    counts = {
        "train_sequences": len(sequences),
        "train_views": int(np.maximum(length - 1, 0).sum()),
        "valid_views": len(valid),
        "test_views": len(test),
        "train_interactions": num_train,
        "valid_targets": num_valid,
        "test_targets": num_test,
        "targets_without_history": without_history,
        "context_only": int(offsets[-1]) - num_train - num_valid - num_test - without_history,
        "users_not_evaluated": int(np.count_nonzero(~is_evaluated)),
    }
    return Split(sequences, valid, test, counts)


def _num_distinct(values: Int[np.ndarray, " n"]) -> int:
    """Returns how many distinct values there are; those of most splits ascend already."""
    return len(values) if (values[1:] > values[:-1]).all() else len(np.unique(values))
