"""Scorers of a feed, in X's words and by its published formulas (xai-org/x-algorithm)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int, Int64

from minirec.recommend.candidates import Candidates
from minirec.recommend.pipeline import FeedQuery, Scorer

_DEPENDENT = (
    1e-10  # A vector with so small a share of itself outside the chosen ones' span adds none.
)


class WeightedScorer(Scorer):
    """A weighted sum of the probabilities of actions, which stand in the columns `p_ACTION`.

    `c = Σ w·p`; with `N` the sum of the negative weights' absolute values and `W` that of the
    positive ones plus `N`: `max(c, 0)` where `W` is 0, `(c + N)/W · offset` where `c < 0`, else
    `c + offset`. A candidate without any probability has no score.
    """

    def __init__(self, weights: Mapping[str, float], offset: float = 0.001):
        """Takes the weights.

        Args:
            weights: by action.
            offset: above 0; what a sum of 0 is worth.

        Raises:
            ValueError: a weight is not a number, or the offset is not above 0.
        """
        for name, weight in weights.items():
            if not np.isfinite(weight):
                raise ValueError(f"weights: {name!r} has {weight}; must be a finite number")
        if not offset > 0:
            raise ValueError(f"offset={offset}: must be above 0")
        self.weights, self._offset = dict(weights), offset

    def score(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns the sums as `score`, and each action's part as `part_ACTION`.

        A query's own `weights` stand in for those it was made with.
        """
        weights: Mapping[str, float] = query.get("weights", self.weights)
        columns: dict[str, np.ndarray] = {}
        total, known = np.zeros(len(candidates)), np.zeros(len(candidates), bool)
        for name, weight in weights.items():
            if f"p_{name}" in candidates:
                probability = candidates[f"p_{name}"].astype(np.float64)
                there = ~np.isnan(probability)
                part = np.where(there, weight * np.where(there, probability, 0.0), np.nan)
                columns[f"part_{name}"] = part
                total += np.where(there, part, 0.0)
                known |= there
        negative = -sum(weight for weight in weights.values() if weight < 0)
        whole = negative + sum(weight for weight in weights.values() if weight > 0)
        if whole == 0:
            score = np.maximum(total, 0.0)
        else:
            below = (total + negative) / whole * self._offset
            score = np.where(total < 0, below, total + self._offset)
        return columns | {"score": np.where(known, score, np.nan)}


class BrandDiversity(Scorer):
    """Lowers the scores of a brand's further candidates.

    In the order of scores (ties by id) the k-th of a brand, from 0, is taken
    `(1 - floor) · decay^k + floor` times. Candidates of brand -1 have none.
    """

    def __init__(self, decay: float = 0.5, floor: float = 0.25, column: str = "brand"):
        """Takes the numbers.

        Args:
            decay: in [0, 1].
            floor: in [0, 1].
            column: of the brands, whole numbers.

        Raises:
            ValueError: a number out of range.
        """
        for name, value in (("decay", decay), ("floor", floor)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: must lie in [0, 1]")
        self._decay, self._floor, self._column = decay, floor, column

    def score(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns the lowered scores, and the factor as `diversity`."""
        del query
        score, brand = candidates["score"], candidates[self._column]
        order = by_score(score, candidates.item)
        factor = np.ones(len(candidates))
        place = _numbers_within(brand[order])
        factor[order] = (1 - self._floor) * self._decay**place + self._floor
        factor[brand < 0] = 1.0
        return {"score": score * factor, "diversity": factor}


class OutOfNetwork(Scorer):
    """Lowers the scores of what the user does not follow, less so for new users."""

    def __init__(self, factor: float = 0.75, new_user_factor: float = 0.9):
        """Takes the factors.

        Args:
            factor: of candidates whose column `in_network` is False.
            new_user_factor: of the same where the query says `is_new_user`.
        """
        self._factor, self._new_user_factor = factor, new_user_factor

    def score(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns the lowered scores, and the factor as `out_of_network`."""
        factor = self._new_user_factor if query.get("is_new_user") else self._factor
        inside = candidates.get("in_network", False).astype(bool)
        factors = np.where(inside, 1.0, factor)
        return {"score": candidates["score"] * factors, "out_of_network": factors}


class Freshness(Scorer):
    """Lowers the scores of old items: half of what is above the floor a half-life (`age_s`)."""

    def __init__(self, half_life_s: float, floor: float = 0.5):
        """Takes the numbers.

        Args:
            half_life_s: seconds, above 0.
            floor: of the factor, in [0, 1].

        Raises:
            ValueError: a number out of range.
        """
        if not half_life_s > 0 or not 0 <= floor <= 1:
            raise ValueError(
                f"half_life_s={half_life_s}, floor={floor}: must be above 0, and in [0, 1]"
            )
        self._half_life_s, self._floor = half_life_s, floor

    def score(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns the lowered scores, and the factor; of an unknown age they stay."""
        del query
        age = np.maximum(np.nan_to_num(candidates.get("age_s", 0.0).astype(np.float64)), 0.0)
        factor = self._floor + (1 - self._floor) * 0.5 ** (age / self._half_life_s)
        return {"score": candidates["score"] * factor, "freshness": factor}


class DppRerank(Scorer):
    """Puts what is both good and unlike the rest first: a determinantal point process, greedily.

    Of the first `most` candidates `num` are chosen (Chen, Zhang and Zhou, "Fast greedy MAP
    inference for determinantal point process", 2018), with the kernel `e^(α q_i) e^(α q_j) cos_ij`,
    `q` the score over the highest and `α = θ / (2 (1 - θ))`. The chosen keep their scores, and so
    their order; all others come behind them.
    """

    def __init__(self, num: int, theta: float = 0.65, most: int = 150, column: str = "vector"):
        """Takes the numbers.

        Args:
            num: candidates to choose.
            theta: weight of scores against likeness, in [0, 1).
            most: candidates that are looked at.
            column: of vectors `[n, E]`.

        Raises:
            ValueError: a number out of range.
        """
        if num < 1 or most < 1 or not 0 <= theta < 1:
            raise ValueError(f"num={num}, most={most}, theta={theta}: must be 1 or more, in [0, 1)")
        self._num, self._most, self._column = num, most, column
        self._alpha = theta / (2 * (1 - theta))

    def enable(self, query: FeedQuery) -> bool:
        """Returns whether it takes part: not where the query says that it shall not."""
        return bool(query.get("diversify", True))

    def score(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns the scores, those of candidates that were not chosen below the others."""
        del query
        score = candidates["score"]
        order = by_score(score, candidates.item)
        order = order[~np.isnan(score[order])][: self._most]
        if not len(order):
            return {}
        vectors = candidates[self._column][order].astype(np.float64)
        chosen = order[dpp_chosen(score[order], vectors, min(self._num, len(order)), self._alpha)]
        others = np.ones(len(candidates), bool)
        others[chosen] = False
        highest = np.nanmax(np.where(others, score, np.nan), initial=-np.inf)
        lowest = score[chosen].min()
        lowered = score.astype(np.float64).copy()
        # Their own order stays. Scaled, scores keep their signs, which further factors go by.
        if highest >= lowest > 0:
            lowered[others] *= (1 - 1e-9) * lowest / highest
        elif highest >= lowest:
            lowered[others] -= highest - lowest + max(abs(lowest), 1.0) * 1e-9
        return {"score": lowered, "dpp": ~others}


def dpp_chosen(
    score: Float64[np.ndarray, " n"],
    vectors: Float64[np.ndarray, "n E"],
    num: int,
    alpha: float,
) -> Int64[np.ndarray, " k"]:
    """Returns the places that a greedy search chooses, in its order, by an incremental Cholesky.

    Fewer than `num` where what is left adds nothing to the determinant.

    Args:
        score: of the candidates.
        vectors: what their likeness is told by.
        num: how many to choose.
        alpha: how much scores count.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    highest = float(score.max())
    relative = score / highest if highest > 0 else score - highest
    quality = np.exp(alpha * relative)
    gain = quality**2  # The diagonal: a vector's cosine with itself is 1.
    least = gain * _DEPENDENT
    rows = np.zeros((num, len(score)))
    chosen: list[int] = []
    for number in range(num):
        best = int(np.argmax(gain))
        if gain[best] == -np.inf:
            break
        chosen.append(best)
        kernel = quality[best] * quality * (unit @ unit[best])
        row = (kernel - rows[:number].T @ rows[:number, best]) / np.sqrt(gain[best])
        rows[number] = row
        gain = gain - row**2
        gain[best] = -np.inf
        gain[gain <= least] = -np.inf
    return np.array(chosen, np.int64)


class ColdStart(Scorer):
    """Lifts a few new items a request to a fixed place, by Thompson sampling.

    Each new item draws from `Beta(prior_likes + likes, prior_dislikes + views - likes)`; of the
    best two draws the better score is lifted.
    """

    def __init__(
        self,
        *,
        place: int = 15,
        cap: int = 1,
        prior_likes: float = 0.75,
        prior_dislikes: float = 49.25,
    ):
        """Takes the numbers.

        Args:
            place: where lifted items stand, from 0.
            cap: items that are lifted at most.
            prior_likes: above 0.
            prior_dislikes: above 0.

        Raises:
            ValueError: a number out of range.
        """
        if place < 0 or cap < 0 or not prior_likes > 0 or not prior_dislikes > 0:
            raise ValueError(
                f"place={place}, cap={cap}, prior_likes={prior_likes}, prior_dislikes="
                f"{prior_dislikes}: must be 0 or more, and above 0"
            )
        self._place, self._cap = place, cap
        self._likes, self._dislikes = prior_likes, prior_dislikes

    def score(self, query: FeedQuery, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Returns the scores, those of lifted items at their place's, and `lifted`.

        The query's `seed` makes the draws; one query draws the same each time.
        """
        score = candidates["score"].astype(np.float64).copy()
        lifted = np.zeros(len(candidates), bool)
        order = by_score(score, candidates.item)
        order = order[~np.isnan(score[order])]
        is_new = candidates.get("is_new", False).astype(bool)
        behind = [place for place in order[self._place :].tolist() if is_new[place]]
        rng = np.random.default_rng(query.get("seed", 0))
        likes = candidates.get("likes", 0.0)[behind]
        views = np.maximum(candidates.get("views", 0.0)[behind], likes)
        draws = rng.beta(self._likes + likes, self._dislikes + views - likes) if behind else []
        by_draw = [behind[number] for number in np.argsort(-np.asarray(draws), kind="stable")]
        if self._place < len(order):
            there = score[order[self._place]]
            # Who stands before the place with the same score stays before it.
            before = order[: self._place]
            above = np.nextafter(there, np.inf)
            if lifts := min(self._cap, len(by_draw)):
                score[before[score[before] == there]] = np.nextafter(above, np.inf)
            for _ in range(lifts):
                best = max(by_draw[:2], key=lambda place: (score[place], -candidates.item[place]))
                by_draw.remove(best)
                score[best] = above
                lifted[best] = True
        return {"score": score, "lifted": lifted}


def by_score(
    score: Float64[np.ndarray, " n"], item: Int[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Returns places by score, the highest first, ties by id; those without a score come last."""
    return np.lexsort((item, -score))


def _numbers_within(group: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Returns how many entries of the same group stand before each."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    first = np.searchsorted(ordered, ordered)
    number = np.empty(len(group), np.int64)
    number[order] = np.arange(len(group)) - first
    return number
