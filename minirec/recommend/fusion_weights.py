"""How much each recommender counts in a fused ranking, what chose it, and its file."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Self

from minirec.files.schema import NUMBER, Kind, check, is_number, is_whole

_SUM_TOLERANCE = 1e-6
_FROM_ONE = Kind("a whole number from 1 on", lambda value: is_whole(value) and value >= 1)
_SHARE = Kind("a number in [0, 1]", lambda value: is_number(value) and 0 <= value <= 1)
_FIELDS = {
    "weights": {str: NUMBER},
    "metrics": {str: _SHARE},
    "sources": {str: {str: _SHARE}},
    "num_users": _FROM_ONE,
    "step": NUMBER,
    "k": _FROM_ONE,
}


@dataclasses.dataclass(frozen=True)
class FusionWeights:
    """The weights of the sources, and how good they were on the users that chose them.

    The metrics flatter: they are the best of all weightings tried, on the very users that decided
    which one is best. Another split's figures say how good the fusion is.

    Attributes:
        weights: by source, at least 0, together 1.
        metrics: `{"hr@10": …, "ndcg@10": …}` of the fused ranking.
        sources: the same metrics of each source's lists alone, by its probabilities.
        num_users: how many users the weights were chosen on.
        step: distance of two neighbouring weightings that were tried.
        k: the weights are those of the best NDCG@k.
    """

    weights: dict[str, float]
    metrics: dict[str, float]
    sources: dict[str, dict[str, float]]
    num_users: int
    step: float
    k: int

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Self:
        """Returns the weights of `to_json`'s object.

        Args:
            value: the JSON value.
            where: what the value comes from, for errors.

        Raises:
            ValueError: a field that is missing, unknown or not as described; the message names
                `where`, the field and the value.
        """
        check(value, _FIELDS, where, exact=True)
        weights, sources, k = value["weights"], value["sources"], value["k"]
        check_weights(weights, weights, where=f"{where}: weights")
        steps_to_one(value["step"], where=f"{where}: step")
        if set(sources) != set(weights):
            raise ValueError(
                f"{where}: sources: {sources!r:.60}; expected the metrics of each of "
                f"{', '.join(weights)}"
            )
        names = [f"hr@{k}", f"ndcg@{k}"]
        for place, metrics in {"metrics": value["metrics"], **sources}.items():
            if set(metrics) != set(names):
                raise ValueError(f"{where}: {place}: {metrics!r:.60}; expected {names}")
        return cls(**value)


def check_weights(
    weights: Mapping[str, Any], sources: Iterable[str], *, where: str = "weights"
) -> None:
    """Raises ValueError unless there is a weight of every source, each >= 0, together 1."""
    sources = list(sources)
    for name in sources:
        if name not in weights:
            raise ValueError(f"{where}: none for source {name!r}; expected one of each: {sources}")
    for name, weight in weights.items():
        if name not in sources:
            raise ValueError(f"{where}: {name!r} is not a source; the sources are {sources}")
        is_real = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not is_real or not math.isfinite(weight) or weight < 0:
            raise ValueError(f"{where}: {name} has {weight!r}; expected a finite number >= 0")
    total = math.fsum(weights.values())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise ValueError(f"{where}: {dict(weights)} sum to {total:g}; they must sum to 1")


def steps_to_one(step: float, *, where: str = "step") -> int:
    """Returns how many steps lead from weight 0 to weight 1.

    Raises:
        ValueError: the step does not divide 1.
    """
    steps = round(1 / step) if _SUM_TOLERANCE < step <= 1 else 0
    if steps < 1 or abs(steps * step - 1) > _SUM_TOLERANCE:
        raise ValueError(f"{where}: {step}; must divide 1, such as 0.1 or 0.05")
    return steps
