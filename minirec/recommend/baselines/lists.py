"""What the baselines share: histories in blocks of users, and lists to be filled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int, Int32, Int64

Histories = Sequence[Sequence[int] | Int[np.ndarray, " H"]] | Int[np.ndarray, "n H"]
"""Item ids a user, oldest first; in a padded array -1 is padding."""

_BLOCK = 512


def empty_lists(histories: Histories, k: int) -> Int32[np.ndarray, "n k"]:
    """Returns lists without an item, all places -1.

    Raises:
        ValueError: `k` below 1.
    """
    if k < 1:
        raise ValueError(f"k: {k}; a list needs at least one place")
    return np.full((len(histories), k), -1, np.int32)


def blocks(
    histories: Histories, num_items: int
) -> Iterator[tuple[slice, Int64[np.ndarray, "b H"]]]:
    """Yields (rows, padded histories) of a few users at a time: memory follows one block."""
    for start in range(0, len(histories), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(histories)))
        block = histories[rows]
        if not isinstance(block, np.ndarray):
            width = max((len(history) for history in block), default=0)
            padded = np.full((len(block), width), -1, np.int64)
            for row, history in enumerate(block):
                padded[row, width - len(history) :] = history
            block = padded
        if block.size and int(block.max()) >= num_items:
            row = int(np.argwhere(block >= num_items)[0][0])
            raise ValueError(
                f"histories: item {int(block.max())} of user {start + row}; the catalogue has only "
                f"{num_items} items"
            )
        yield rows, block.astype(np.int64)


def pairs(block: Int64[np.ndarray, "b H"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (row, item) pairs of a padded block."""
    row, column = np.nonzero(block >= 0)
    return row, block[row, column]


def unwanted(
    block: Int64[np.ndarray, "b H"],
    excluded: Histories | None,
    num_items: int,
    *,
    exclude_seen: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (row, item) pairs that must not be listed.

    Args:
        block: the padded histories of some users.
        excluded: item ids that each of these users shall not get; None: no more than is seen.
        num_items: of those that `excluded` names only lower ones can be listed.
        exclude_seen: whether the items of a user's own history are among them.
    """
    row, item = pairs(block) if exclude_seen else no_pairs()
    if excluded is None:
        return row, item
    sizes = [len(items) for items in excluded]
    more = np.concatenate([np.zeros(0, np.int64), *map(np.asarray, excluded)]).astype(np.int64)
    of = np.repeat(np.arange(len(sizes)), sizes)
    known = (more >= 0) & (more < num_items)
    return np.concatenate([row, of[known]]), np.concatenate([item, more[known]])


def no_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Returns what `pairs` does of a block without items."""
    return np.zeros(0, np.int64), np.zeros(0, np.int64)


def best_places(
    user: Int64[np.ndarray, " P"],
    score: Float64[np.ndarray, " P"],
    tie: Int[np.ndarray, " P"],
    k: int,
) -> tuple[Int64[np.ndarray, " T"], Int64[np.ndarray, " T"]]:
    """Returns which scored items are the `k` best of their users, and the place of each, from 0.

    They come user by user, best first.

    Args:
        user: whose each is.
        score: the higher the better.
        tie: of equal scores the lowest comes first.
        k: how many a user.
    """
    order = np.lexsort((tie, -score, user))
    # Rows are sorted by user, so that a place is the distance to the user's first row.
    place = np.arange(len(order)) - np.searchsorted(user[order], user[order])
    top = place < k
    return order[top], place[top]


def ages(block: Int64[np.ndarray, "b H"]) -> Int64[np.ndarray, "b H"]:
    """Returns how many items of its history are newer than each; meaningless where -1 stands."""
    return np.cumsum((block >= 0)[:, ::-1], axis=1)[:, ::-1] - 1
