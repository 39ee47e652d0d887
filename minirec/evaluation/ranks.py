"""At which place of a ranked list the target stands, at item level and at SID level."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Int32

from minirec.sids.statistics import number_sids

NOT_FOUND = -1
"""The rank of a target that the list does not hold."""


def item_ranks(
    ranked_items: Int[np.ndarray, "n K"], target: Int[np.ndarray, " n"]
) -> Int32[np.ndarray, " n"]:
    """Returns the place of each target in its list: 0 is the best, -1 means not in the list.

    Args:
        ranked_items: item ids, best first; -1 where a list ends early.
        target: the item id to be found.

    Raises:
        ValueError: the shapes do not fit, or a target is negative.
    """
    ranked_items = _integers(ranked_items, "ranked_items", 2)
    target = _integers(target, "target", 1)
    _same_rows(ranked_items, target, "ranked_items", "target")
    _no_negative(target, "target")
    return _first_place(ranked_items == target[:, None])


def sid_ranks(
    ranked_sids: Int[np.ndarray, "n M L"],
    target_sid: Int[np.ndarray, "n L"],
    *,
    keep_duplicates: bool = False,
) -> Int32[np.ndarray, " n"]:
    """Returns the place of each target's SID among the different SIDs of its list, or -1.

    A list of SIDs holds each SID once, as a beam search gives it (MiniOneRec counts its beams). A
    list of items whose items share a SID is treated likewise: the SID counts once, at its first
    place, and what follows moves up. This is what lets a baseline's item list stand beside the
    beams of a model.

    Args:
        ranked_sids: codes, best first; a SID with a negative code marks a dead beam or the end of
            the list, and takes no place.
        target_sid: codes of the target's SID.
        keep_duplicates: let a repeated SID take a place of its own. The item lists' own places
            then count, which is harder on a list whose items share SIDs.

    Raises:
        ValueError: the shapes do not fit, or a target has a negative code.
    """
    ranked_sids = _integers(ranked_sids, "ranked_sids", 3)
    target_sid = _integers(target_sid, "target_sid", 2)
    _same_rows(ranked_sids, target_sid, "ranked_sids", "target_sid")
    if ranked_sids.shape[2] != target_sid.shape[1]:
        raise ValueError(
            f"target_sid: {target_sid.shape[1]} levels, but ranked_sids has {ranked_sids.shape[2]}"
        )
    _no_negative(target_sid, "target_sid")
    place = _first_place((ranked_sids == target_sid[:, None, :]).all(axis=2))
    takes_place = (ranked_sids >= 0).all(axis=2)
    if not keep_duplicates:
        takes_place &= first_occurrences(ranked_sids)
    before = np.cumsum(takes_place, axis=1, dtype=np.int32) - takes_place
    rank = np.take_along_axis(before, np.maximum(place, 0)[:, None], axis=1)[:, 0]
    return np.where(place == NOT_FOUND, NOT_FOUND, rank).astype(np.int32)


def item_sids(
    ranked_items: Int[np.ndarray, "n K"], item_codes: Int[np.ndarray, "N L"]
) -> Int32[np.ndarray, "n K L"]:
    """Returns the SID of every item of a list; all codes are -1 where the list has none.

    Raises:
        ValueError: an item lies outside the catalogue.
    """
    ranked_items = _integers(ranked_items, "ranked_items", 2)
    if ranked_items.size and int(ranked_items.max()) >= len(item_codes):
        raise ValueError(
            f"ranked_items: item {int(ranked_items.max())}, but the catalogue has only "
            f"{len(item_codes)} items"
        )
    sids = item_codes.astype(np.int32)[np.maximum(ranked_items, 0)]
    sids[ranked_items < 0] = -1
    return sids


def first_occurrences(ranked_sids: Int[np.ndarray, "n M L"]) -> Bool[np.ndarray, "n M"]:
    """Returns where a SID stands for the first time in its list."""
    numbers = number_sids(ranked_sids)
    order = np.argsort(numbers, axis=1, kind="stable")
    ordered = np.take_along_axis(numbers, order, axis=1)
    new = np.ones(ordered.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, axis=1)
    return first


def count_invalid(ranked_sids: Int[np.ndarray, "n M L"], item_codes: Int[np.ndarray, "N L"]) -> int:
    """Returns how many of the SIDs shown no item has; dead beams (negative codes) are not shown.

    A search constrained by the catalogue's trie gives 0; anything else is a bug.
    """
    shown = ranked_sids[(ranked_sids >= 0).all(axis=-1)]
    numbers = number_sids(np.concatenate([item_codes, shown]))
    known, asked = np.unique(numbers[: len(item_codes)]), numbers[len(item_codes) :]
    place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return int((known[place] != asked).sum())


def _first_place(hit: Bool[np.ndarray, "n K"]) -> Int32[np.ndarray, " n"]:
    if hit.shape[1] == 0:
        return np.full(len(hit), NOT_FOUND, np.int32)
    return np.where(hit.any(axis=1), hit.argmax(axis=1), NOT_FOUND).astype(np.int32)


def _integers(array: np.ndarray, name: str, num_axes: int) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != num_axes or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name}: expected an integer array of {num_axes} axes, got {array.dtype} "
            f"{list(array.shape)}"
        )
    return array


def _same_rows(first: np.ndarray, second: np.ndarray, first_name: str, second_name: str) -> None:
    if len(first) != len(second):
        raise ValueError(f"{second_name}: {len(second)} rows, but {first_name} has {len(first)}")


def _no_negative(array: np.ndarray, name: str) -> None:
    if array.size and int(array.min()) < 0:
        row = int(np.argwhere(array < 0)[0][0])
        raise ValueError(f"{name}: {int(array.min())} in row {row}; must not be negative")
