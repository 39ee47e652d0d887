"""Drawing rows: evenly over users, and what happens where there are fewer than were asked for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
from jaxtyping import Int64


@dataclasses.dataclass(frozen=True)
class Pool:
    """How many rows of a task there were to draw from, and what was drawn.

    Attributes:
        task: its letter.
        quota: rows asked for.
        pool: different rows that there are; of tasks that draw windows, those that were counted.
        different: different rows among those drawn.
        rows: rows drawn.
    """

    task: str
    quota: int
    pool: int
    different: int
    rows: int

    @property
    def repeated(self) -> int:
        """Rows that were there already."""
        return self.rows - self.different

    def report(self) -> dict[str, int]:
        """Returns it as JSON."""
        return {
            "quota": self.quota,
            "pool": self.pool,
            "rows": self.rows,
            "different": self.different,
            "repeated": self.repeated,
        }


def quotas(total: int, shares: tuple[float, float, float]) -> tuple[int, int, int]:
    """Returns how many rows each task has; they sum to `total`."""
    first, second = round(total * shares[0]), round(total * shares[1])
    first, second = min(first, total), min(second, total - min(first, total))
    third = total - first - second
    if not shares[2]:  # Rounding gives nothing to a task that is off.
        first, third = first + third, 0
    return first, second, third


def chosen(
    task: str, pool: int, available: int, quota: int, policy: str, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, " n"], Pool]:
    """Returns which of the different rows are written, and how many times each.

    Args:
        task: for errors.
        pool: different rows that there are.
        available: of them, those that can be chosen here.
        quota: rows asked for.
        policy: "repeat", "shrink" or "error", where `available` is less than the quota.
        rng: draws.

    Raises:
        ValueError: there is no row at all, or too few and the policy is "error".
    """
    if not quota:
        return np.zeros(0, np.int64), Pool(task, 0, pool, 0, 0)
    if not available:
        raise ValueError(
            f"task {task} has no row to draw from, but its share asks for {quota:,}; set "
            f"split_task_{task.lower()}=0, or look at what it needs"
        )
    if available >= quota:
        rows = np.arange(available) if available == quota else rng.permutation(available)[:quota]
    elif policy == "shrink":
        rows = np.arange(available)
    elif policy == "error":
        raise ValueError(
            f"pool_too_small='error': task {task} has {available:,} different rows, and its share "
            f"of target_examples asks for {quota:,}; lower one of the two, or take 'repeat' or "
            "'shrink'"
        )
    else:
        whole, rest = divmod(quota, available)
        rows = np.concatenate(
            [np.tile(np.arange(available), whole), rng.permutation(available)[:rest]]
        )
    return rows, Pool(task, quota, pool, min(available, quota), len(rows))


def spread(
    quota: int, capacity: Int64[np.ndarray, " U"], rng: np.random.Generator
) -> Int64[np.ndarray, " U"]:
    """Returns how many rows each user gives: as many as the others, or all that there are.

    Args:
        quota: rows in all, where the capacities allow.
        capacity: most rows of each user.
        rng: draws who gives one more.
    """
    ascending = np.sort(capacity)
    before = np.concatenate([[0], np.cumsum(ascending)])
    if before[-1] <= quota:
        return capacity.copy()
    # With a level between two capacities, all lower ones are used up.
    number = np.arange(len(capacity), 0, -1)
    used_up = int(np.searchsorted(before[:-1] + ascending * number, quota, side="right"))
    level = (quota - int(before[used_up])) // (len(capacity) - used_up)
    counts = np.minimum(capacity, level)
    more = rng.permutation(np.flatnonzero(capacity > level))[: quota - int(counts.sum())]
    counts[more] += 1
    return counts


def in_rounds(
    quota: int,
    capacity: Int64[np.ndarray, " U"],
    draw: Callable[[int, int], int],
    rng: np.random.Generator,
) -> None:
    """Asks users for rows until there are enough, or nobody has another.

    Args:
        quota: rows in all.
        capacity: most rows of each user; may be more than there are.
        draw: makes so many different rows of a user (user, number), and returns how many it made.
        rng: draws who gives one more.
    """
    left = capacity.copy()
    while quota > 0 and left.any():
        counts = spread(quota, left, rng)
        for user in np.flatnonzero(counts).tolist():
            made = draw(user, int(counts[user]))
            quota -= made
            # Who gave fewer than asked for has no more.
            left[user] = left[user] - made if made == counts[user] else 0


def stands_in(value: str, text: str) -> bool:
    """Returns whether a value stands in a text as a word or as words of its own."""
    value, text = value.casefold(), text.casefold()
    if value not in text:
        return False
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None
