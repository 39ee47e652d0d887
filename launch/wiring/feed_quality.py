"""What a feed's report says beside its rows: of the ranker's probabilities, and of each source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from minirec.evaluation import KS, item_ranks, metrics_at
from minirec.evaluation.probabilities import auc, calibration, log_loss
from minirec.models.feed import FeedModel
from minirec.recommend.feed.all_items import AllItems

DRAWN = 1000
"""Targets for which the ranker judges every item: for all it would take some 270 Tflop."""

_NEGATIVES = 200  # Items of a target that stand for all others where targets are pooled.


def drawn_batches(
    batches: Iterable[Mapping[str, Any]], chosen: Int[np.ndarray, " n"]
) -> Iterable[Mapping[str, Any]]:
    """Yields batches of the chosen rows alone, each as large as before."""
    held: dict[str, list[np.ndarray]] = {}
    size = 0
    for batch in batches:
        size = len(batch["valid"])
        kept = np.flatnonzero(batch["valid"] & np.isin(batch["row"], chosen))
        for name, column in batch.items():
            held.setdefault(name, []).append(np.asarray(column)[kept])
        if sum(len(part) for part in held["valid"]) >= size:
            together = {name: np.concatenate(parts) for name, parts in held.items()}
            yield {name: column[:size] for name, column in together.items()}
            held = {name: [column[size:]] for name, column in together.items()}
    if held and (left := sum(len(part) for part in held["valid"])):
        last = {name: np.concatenate(parts) for name, parts in held.items()}
        again = np.resize(np.arange(left), size)
        padded = {name: column[again] for name, column in last.items()}
        yield padded | {"valid": np.arange(size) < left}


def ranker_quality(
    model: FeedModel,
    identities: np.ndarray,
    batches: Iterable[Mapping[str, Any]],
    *,
    actions: Sequence[str],
    target: Int[np.ndarray, " views"],
    event: Int[np.ndarray, " views"],
    user: Int[np.ndarray, " views"],
    most: int,
    seed: int,
) -> dict[str, Any]:
    """Returns what the ranker is worth over all items, for the users of some batches.

    By action: `auc_per_user`, the mean over users of that of their targets with the action among
    all items; `auc_pooled`, of all such targets among drawn other items of all targets; `log_loss`
    and `calibration` of all targets and drawn items, as if all items had been looked at;
    `auc_of_viewed`, of targets among the items that their users had before, beside that of
    `recency`, the newest first. `all_items` has HR and NDCG by the logit of what is next.

    Args:
        model: whose ranker.
        identities: rows of every item's identities.
        batches: histories, with `row` and `valid`.
        actions: names of the event types.
        target: by row, the item that is asked for.
        event: by row, what its user did with it.
        user: by row, whose it is.
        most: items of a list, for HR and NDCG.
        seed: of the drawn items.
    """
    judge, rng = AllItems(model, identities), np.random.default_rng(seed)
    num_items, A = len(identities), len(actions)
    rows: list[int] = []
    ranks: list[int] = []
    own: list[list[float]] = []
    positive: list[np.ndarray] = []  # [A] probabilities of the targets
    drawn: list[np.ndarray] = []  # [negatives, A] of drawn other items
    viewed: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for batch in batches:
        logits = judge(batch)
        for place in np.flatnonzero(batch["valid"]).tolist():
            row = int(batch["row"][place])
            wanted, mine = int(target[row]), logits[place]
            probability = 1 / (1 + np.exp(-mine[:, :-1].astype(np.float64)))
            rows.append(row)
            order = np.argsort(-mine[:, -1], kind="stable")[:most]
            ranks.append(int(item_ranks(order[None], np.array([wanted]))[0]))
            is_target = np.arange(num_items) == wanted
            own.append([auc(probability[:, a], is_target) for a in range(A)])
            others = rng.integers(0, num_items - 1, _NEGATIVES)
            others += others >= wanted
            positive.append(probability[wanted])
            drawn.append(probability[others])
            name = actions[int(event[row])]
            history = batch["item"][place][: batch["lengths"][place]]
            distinct = np.unique(history)
            if wanted in distinct and len(distinct) > 1:
                newest = np.array([np.flatnonzero(history == one)[-1] for one in distinct])
                is_wanted = distinct == wanted
                by_ranker = auc(probability[distinct, int(event[row])], is_wanted)
                viewed[name].append((by_ranker, auc(newest.astype(float), is_wanted)))
    found = {
        name: _of_action(a, np.array(rows), event, user, np.array(own), positive, drawn, num_items)
        | _of_viewed(viewed[name])
        for a, name in enumerate(actions)
    }
    ks = [k for k in KS if k <= most]
    return {"targets": len(rows), "all_items": metrics_at(np.array(ranks), ks), "actions": found}


def _of_action(
    a: int,
    rows: np.ndarray,
    event: np.ndarray,
    user: np.ndarray,
    own: np.ndarray,
    positive: Sequence[np.ndarray],
    drawn: Sequence[np.ndarray],
    num_items: int,
) -> dict[str, Any]:
    of = np.flatnonzero(event[rows] == a)
    if not len(of):
        return {"targets": 0}
    _, whose = np.unique(user[rows[of]], return_inverse=True)
    per_user = np.bincount(whose, own[of, a]) / np.bincount(whose)
    chosen = np.array([one[a] for one in positive])
    others = np.stack([some[:, a] for some in drawn])
    probability = np.concatenate([chosen, others.ravel()])
    happened = np.concatenate([event[rows] == a, np.zeros(others.size, bool)])
    # A drawn item stands for as many as there are to be drawn from.
    share = (num_items - 1) / others.shape[1]
    weight = np.concatenate([np.ones(len(chosen)), np.full(others.size, share)])
    pooled = np.concatenate([chosen[of], others[of].ravel()])
    is_target = np.arange(len(pooled)) < len(of)
    return {
        "targets": len(of),
        "auc_per_user": _rounded(per_user.mean()),
        "auc_pooled": _rounded(auc(pooled, is_target)),
        "log_loss": _rounded(log_loss(probability, happened, weight), 8),
        "calibration": {
            name: _rounded(value, 8)
            for name, value in calibration(probability, happened, weight).items()
        },
    }


def _of_viewed(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    if not pairs:
        return {}
    by_ranker, by_recency = np.mean(pairs, axis=0)
    return {
        "auc_of_viewed": {
            "targets": len(pairs), "ranker": _rounded(by_ranker), "recency": _rounded(by_recency)
        }
    }  # fmt: skip


def source_recall(
    lists: Mapping[str, Int[np.ndarray, "n k"]],
    target: Int[np.ndarray, " n"],
    is_new: np.ndarray,
) -> dict[str, dict[str, float]]:
    """Returns by source its size, how many targets it names, and how many no other one does.

    Args:
        lists: items that each source names, -1 where there is none.
        target: what is asked for.
        is_new: whether the user never had it.
    """
    hits = {name: (item == target[:, None]).any(axis=1) for name, item in lists.items()}
    number = sum(hit.astype(int) for hit in hits.values())

    def share(some: np.ndarray) -> float:
        return _rounded(some.mean()) if len(some) else float("nan")

    every = {
        name: {
            "size": int(lists[name].shape[1]),
            "recall": share(hit),
            "recall_of_new": share(hit[is_new]),
            "alone": share(hit & (number == 1)),
            "alone_of_new": share((hit & (number == 1))[is_new]),
        }
        for name, hit in hits.items()
    }
    together = np.asarray(number) > 0
    sizes = sum(item.shape[1] for item in lists.values())
    whole = {"size": sizes, "recall": share(together), "recall_of_new": share(together[is_new])}
    return every | {"together": whole}


def _rounded(value: float, places: int = 5) -> float:
    return round(float(value), places)
