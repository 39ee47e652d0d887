"""The items that a user's sources list, with what each source and the counts say of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int, Int64

from minirec.recommend.baselines.item_transition import ItemTransition
from minirec.recommend.baselines.lists import best_places
from minirec.recommend.content import Neighbours
from minirec.recommend.ranked_lists import RankedLists
from minirec.recommend.sources import CONTENT

_FLOOR = 1e-5  # of a probability, under the logarithm: what a list leaves out has not none
_NEWEST = 4  # history items that are looked at one by one


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """What is counted and written of the items.

    Attributes:
        transition: the transition count, with popularity.
        neighbours: which items are like which.
    """

    transition: ItemTransition
    neighbours: Neighbours


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Items that users may be recommended, user by user.

    Attributes:
        user: `[P]`, from 0, ascending.
        item: `[P]`.
        features: `[P, F]`.
        names: of the features.
        num_users: n.
        per_user: candidates of a user at most.
    """

    user: Int64[np.ndarray, " P"]
    item: Int64[np.ndarray, " P"]
    features: Float32[np.ndarray, "P F"]
    names: tuple[str, ...]
    num_users: int
    per_user: int


def candidates(
    lists: Mapping[str, RankedLists],
    histories: Sequence[Int[np.ndarray, " H"]],
    facts: Facts,
    per_user: int,
) -> Candidates:
    """Returns the `per_user` items a user that all sources together hold the most probable.

    Features are the logarithm of each source's probability, what the count and the text say of the
    candidate and each of the newest items, the candidate's popularity, when it was last taken, and
    products of these with what tells whom to trust: how many items ever followed the newest one,
    how near the nearest candidate is in text, how long the history is.

    Args:
        lists: by name of the source, the same users in all.
        histories: item ids a user, oldest first, those alone that `facts` knows.
        facts: of the items; those past its end are new, and nothing is known of them.
        per_user: candidates at most.
    """
    user, item, probability = _union(lists, per_user)
    num_users, num_known = len(histories), facts.transition.num_items
    newest = np.full((num_users, _NEWEST), -1, np.int64)
    length = np.zeros(num_users)
    for row, history in enumerate(histories):
        some = np.asarray(history)[::-1][:_NEWEST]
        newest[row, : len(some)] = some
        length[row] = len(history)
    found: dict[str, np.ndarray] = {
        f"log_{name}": np.log(values + _FLOOR)
        for name, values in probability.items()
        if name != CONTENT
    }
    trusted = list(found)
    counts, transitions = facts.transition.popularity.counts, facts.transition.transitions
    near, rows = facts.neighbours, np.diff(transitions.indptr)
    like = np.zeros(len(user))
    for age in range(_NEWEST):
        past = newest[user, age]
        both = (past >= 0) & (item < num_known)
        past, there = np.where(both, past, 0), np.where(both, item, 0)
        for name, offsets, columns, values, pair in (
            ("follows", transitions.indptr, transitions.indices, transitions.data, (past, there)),
            ("leads", transitions.indptr, transitions.indices, transitions.data, (there, past)),
            ("like", near.offsets, near.item, near.cosine, (past, there)),
        ):
            entry = _entries(offsets, columns, *pair)
            held = both & (entry >= 0)
            found[f"{name}_{age}"] = np.zeros(len(user))
            found[f"{name}_{age}"][held] = values[entry[held]]
        found[f"like_{age}_squared"] = found[f"like_{age}"] ** 2
        if age < 2:
            like += 0.5**age * found[f"like_{age}"]
    popularity = np.log1p(np.where(item < num_known, counts[np.minimum(item, num_known - 1)], 0))
    found |= {"like": like, "popularity": popularity, "unsold": popularity == 0}
    found |= _taken(user, item, histories)
    first = newest[user, 0]
    gates = {
        "followers": np.where(first >= 0, np.log1p(rows[np.maximum(first, 0)]), 0.0),
        "nearest": _most(user, like, num_users)[user],
        "length": np.log1p(length)[user],
    }
    for name in (*trusted, "like", "follows_0", "popularity"):
        for gate, value in gates.items():
            found[f"{name}*{gate}"] = found[name] * value
    features = np.stack([value.astype(np.float32) for value in found.values()], axis=1)
    return Candidates(user, item, features, tuple(found), num_users, per_user)


def _union(
    lists: Mapping[str, RankedLists], per_user: int
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"], dict[str, np.ndarray]]:
    """Returns (user, item) and each source's probabilities of the most probable items."""
    num_users = len(next(iter(lists.values())).item)
    width = 1 + max(int(source.item.max(initial=0)) for source in lists.values())
    keys = {
        name: np.arange(num_users)[:, None] * width + source.item for name, source in lists.items()
    }
    listed = {name: source.item >= 0 for name, source in lists.items()}
    union = np.unique(np.concatenate([keys[name][listed[name]] for name in lists]))
    probability = {}
    for name, source in lists.items():
        probability[name] = np.zeros(len(union))
        at = np.searchsorted(union, keys[name][listed[name]])
        probability[name][at] = source.probability[listed[name]]
    user, item = np.divmod(union, width)
    total = np.round(sum(probability.values()), 12)
    kept = np.sort(best_places(user, total, item, per_user)[0])
    return user[kept], item[kept], {name: values[kept] for name, values in probability.items()}


def _taken(
    user: np.ndarray, item: np.ndarray, histories: Sequence[Int[np.ndarray, " H"]]
) -> dict[str, np.ndarray]:
    """Returns whether a candidate stands in its user's history, and 1 / how far back it does."""
    width = 1 + int(item.max(initial=0))
    ages = [np.arange(len(history), 0, -1) for history in histories]
    keys = np.concatenate(
        [np.zeros(0, np.int64)]
        + [row * width + np.asarray(history, np.int64) for row, history in enumerate(histories)]
    )
    inside = np.concatenate(
        [np.zeros(0, bool)] + [np.asarray(history) < width for history in histories]
    )
    age = np.concatenate([np.zeros(0, np.int64), *ages])[inside]
    keys = keys[inside]
    order = np.lexsort((age, keys))  # Of an item that stands there twice the newest comes first.
    keys, age = keys[order], age[order]
    wanted = user * width + item
    at = np.searchsorted(keys, wanted)
    held = at < len(keys)
    held[held] = keys[at[held]] == wanted[held]
    recency = np.zeros(len(user))
    recency[held] = 1.0 / age[at[held]]
    return {"taken": held, "taken_recently": recency}


def _entries(
    offsets: Int[np.ndarray, " N1"],
    columns: Int[np.ndarray, " E"],
    row: Int64[np.ndarray, " P"],
    column: Int64[np.ndarray, " P"],
) -> Int64[np.ndarray, " P"]:
    """Returns where (row, column) stands in a matrix with sorted columns; -1 where it does not."""
    low, high = offsets[row].astype(np.int64), offsets[row + 1].astype(np.int64)
    if not len(columns):
        return np.full(len(row), -1)
    end, last = high.copy(), len(columns) - 1
    while (low < high).any():
        middle = (low + high) // 2
        below = (columns[np.minimum(middle, last)] < column) & (low < high)
        high = np.where(below | (low >= high), high, middle)
        low = np.where(below, middle + 1, low)
    found = low < end
    found[found] = columns[low[found]] == column[found]
    return np.where(found, low, -1)


def _most(user: np.ndarray, value: np.ndarray, num_users: int) -> np.ndarray:
    most = np.zeros(num_users)
    np.maximum.at(most, user, value)
    return most
