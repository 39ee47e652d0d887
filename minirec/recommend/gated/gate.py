"""A conditional logit over a user's candidates: its scores' softmax is the next item's probability.

It is the linear pool's sibling (McFadden, "Conditional logit analysis of qualitative choice
behavior", 1974): sources count by the logarithm of their probabilities, and how much they count
depends on the user and the item. A hidden layer, where it has one, adds what no product of two
features says.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import threadpoolctl
from jaxtyping import Float32, Float64, Int
from scipy.optimize import minimize

from minirec.files.schema import NUMBER, check
from minirec.recommend.gated.candidates import Candidates
from minirec.recommend.ranked_lists import RankedLists

_STEPS = 60
_SMALLEST = 1e-6  # A feature that varies less is a constant.
_MOST = 5.0  # standard deviations that a feature counts at most
_PER_FEATURE = ("mean", "scale", "weight")
_HIDDEN = ("hidden", "bias", "out")
_SHAPE = {
    "names": [str],
    **{name: [NUMBER] for name in _PER_FEATURE},
    "hidden": [[NUMBER]],
    "bias": [NUMBER],
    "out": [NUMBER],
}
_BLOCK = 512  # users


@dataclasses.dataclass(frozen=True, eq=False)
class Gate:
    """The weights of a user's candidates' features.

    Attributes:
        names: of the features.
        mean: `[F]`, of each where the gate was fitted.
        scale: `[F]`, its standard deviation there; 1 where it did not vary.
        weight: `[F]`.
        hidden: `[F, H]`, the hidden layer's weights; H is 0 where there is none.
        bias: `[H]`.
        out: `[H]`, how its rectified units count.
    """

    names: tuple[str, ...]
    mean: Float64[np.ndarray, " F"]
    scale: Float64[np.ndarray, " F"]
    weight: Float64[np.ndarray, " F"]
    hidden: Float64[np.ndarray, "F H"]
    bias: Float64[np.ndarray, " H"]
    out: Float64[np.ndarray, " H"]

    def scaled(self, features: Float32[np.ndarray, "*P F"]) -> Float64[np.ndarray, "*P F"]:
        """Returns features as the gate weighs them."""
        return np.clip((features - self.mean) / self.scale, -_MOST, _MOST)

    def score(self, found: Candidates) -> Float64[np.ndarray, " P"]:
        """Returns the score of each candidate, to 9 decimals."""
        scores = np.zeros(len(found.user))
        ends = np.searchsorted(found.user, np.arange(found.num_users + 1))
        for start in range(0, found.num_users, _BLOCK):
            rows = slice(ends[start], ends[min(start + _BLOCK, found.num_users)])
            user = found.user[rows] - start
            place = np.arange(rows.start, rows.stop) - ends[found.user[rows]]
            # A user's candidates are one matrix of one size: a product's bits depend on its shape.
            tile = np.zeros((min(_BLOCK, found.num_users - start), found.per_user, len(self.names)))
            tile[user, place] = self.scaled(found.features[rows])
            units = np.maximum(tile @ self.hidden + self.bias, 0.0)
            score = (tile * self.weight).sum(axis=2) + (units * self.out).sum(axis=2)
            scores[rows] = score[user, place]
        return np.round(scores, 9)

    def rank(self, found: Candidates, k: int) -> RankedLists:
        """Returns the `k` best candidates a user, best first, with their probabilities.

        They depend on the user's candidates alone.

        Raises:
            ValueError: the candidates have other features.
        """
        if found.names != self.names:
            raise ValueError(f"features: {found.names}; the gate knows {self.names}")
        score = self.score(found)
        order = np.lexsort((found.item, -score, found.user))
        user, item, score = found.user[order], found.item[order], score[order]
        start = np.searchsorted(user, np.arange(found.num_users))
        place = np.arange(len(user)) - start[user]
        power = np.exp(score - score[start[user]])
        probability = power / np.bincount(user, power, minlength=found.num_users)[user]
        lists = RankedLists(
            np.full((found.num_users, k), -1, np.int32), np.zeros((found.num_users, k))
        )
        listed = place < k
        lists.item[user[listed], place[listed]] = item[listed]
        lists.probability[user[listed], place[listed]] = probability[listed]
        return lists

    def to_json(self) -> dict[str, Any]:
        """Returns the gate as a JSON object."""
        arrays = {name: getattr(self, name).tolist() for name in (*_PER_FEATURE, *_HIDDEN)}
        return {"names": list(self.names), **arrays}

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Self:
        """Returns the gate of `to_json`'s object.

        Args:
            value: the JSON value.
            where: what the value comes from, for errors.

        Raises:
            ValueError: a field that is missing, unknown or not as described.
        """
        check(value, _SHAPE, where, exact=True)
        size = len(value["names"])
        for name in (*_PER_FEATURE, "hidden"):
            if len(value[name]) != size:
                raise ValueError(
                    f"{where}: {name} has {len(value[name])} numbers for {size} features"
                )
        units = len(value["bias"])
        if any(len(row) != units for row in (*value["hidden"], value["out"])):
            raise ValueError(f"{where}: hidden, bias and out are of different sizes")
        if not all(scale > 0 for scale in value["scale"]):
            raise ValueError(f"{where}: scale: {min(value['scale'])}; must be above 0")
        arrays = {name: np.array(value[name], np.float64) for name in (*_PER_FEATURE, *_HIDDEN)}
        arrays["hidden"] = arrays["hidden"].reshape(size, units)
        return cls(tuple(value["names"]), **arrays)


def fit_gate(found: Candidates, target: Int[np.ndarray, " n"], penalty: float) -> Gate:
    """Returns the gate under which the targets are the most probable among their candidates.

    Users whose target is no candidate say nothing. The loss is the mean negative log-likelihood
    plus `penalty` times the squared weights of the features, each scaled to variance 1.

    Args:
        found: the candidates.
        target: the item that came next, of each user.
        penalty: at least 0.

    Raises:
        ValueError: no user's target is a candidate.
    """
    hit = found.item == target[found.user]
    told = np.zeros(found.num_users, bool)
    told[found.user[hit]] = True
    if not told.any():
        raise ValueError("target: no user's is among the candidates; nothing can be learnt")
    rows = told[found.user]
    features, hit = found.features[rows], hit[rows]
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    scale[scale < _SMALLEST] = 1.0
    features = (features - mean.astype(np.float32)) / scale.astype(np.float32)
    features = np.clip(features, -_MOST, _MOST)
    _, user = np.unique(found.user[rows], return_inverse=True)
    starts = np.searchsorted(user, np.arange(user[-1] + 1))
    num_users, of_targets = len(starts), features[hit].mean(axis=0, dtype=np.float64)

    def loss(weight: np.ndarray) -> tuple[float, np.ndarray]:
        score = (features @ weight.astype(np.float32)).astype(np.float64)
        power = np.exp(score - np.maximum.reduceat(score, starts)[user])
        share = power / np.add.reduceat(power, starts)[user]
        likelihood = np.log(np.maximum(share[hit], 1e-300)).mean()
        expected = (share.astype(np.float32) @ features).astype(np.float64) / num_users
        return (
            penalty * float(weight @ weight) - likelihood,
            2 * penalty * weight - (of_targets - expected),
        )

    start = np.zeros(features.shape[1])
    options = {"maxiter": _STEPS}
    # Products this small gain nothing by more threads, which wait for each other while they spin.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        weight = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    nothing = np.zeros(0)
    return Gate(found.names, mean, scale, weight, np.zeros((len(mean), 0)), nothing, nothing)
